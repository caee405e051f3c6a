"""`python -m keras_meta`, the `keras-meta` command.

The one module of the library that imports the zoo.
"""

import sys

from keras_meta.zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
