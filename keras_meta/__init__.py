"""keras-meta: few-shot meta-learning for TensorFlow and Keras."""

from keras_meta import metrics as metrics
from keras_meta import networks as networks
from keras_meta import runtime as runtime
from keras_meta.episodes import ClassPool as ClassPool
from keras_meta.export import export as export
from keras_meta.finetune import finetune as finetune
from keras_meta.images import ImagePreprocess as ImagePreprocess
from keras_meta.learner import Learner as Learner
from keras_meta.learners.maml import FOMAML as FOMAML
from keras_meta.learners.maml import MAML as MAML
