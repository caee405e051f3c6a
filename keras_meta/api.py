"""The public names. `keras_meta` imports this module when one is first used.

Importing this module imports TensorFlow, some seconds, and registers the learners with
Keras.
"""

from keras_meta import backend

backend.check()

from keras_meta import metrics as metrics
from keras_meta import networks as networks
from keras_meta import runtime as runtime
from keras_meta import tasks as tasks
from keras_meta.fine_tuning import finetune as finetune
from keras_meta.images import ImagePreprocess as ImagePreprocess
from keras_meta.learner import Learner as Learner
from keras_meta.learners.anil import ANIL as ANIL
from keras_meta.learners.cnp import CNP as CNP
from keras_meta.learners.imaml import IMAML as IMAML
from keras_meta.learners.lstm import LSTMLearner as LSTMLearner
from keras_meta.learners.maml import FOMAML as FOMAML
from keras_meta.learners.maml import MAML as MAML
from keras_meta.learners.mann import MANN as MANN
from keras_meta.learners.meta_sgd import MetaSGD as MetaSGD
from keras_meta.learners.protonet import ProtoNet as ProtoNet
from keras_meta.learners.reptile import Reptile as Reptile
from keras_meta.learners.shrinkage import SigmaIMAML as SigmaIMAML
from keras_meta.learners.shrinkage import SigmaMAML as SigmaMAML
from keras_meta.learners.sigma_reptile import SigmaReptile as SigmaReptile
from keras_meta.pool import ClassPool as ClassPool
from keras_meta.saved_model import export as export
from keras_meta.units import StandardUnits as StandardUnits
