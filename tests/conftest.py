"""Every test runs with the threads that the tools use."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_meta import runtime

runtime.configure()
