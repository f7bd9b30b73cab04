"All public names, ours after fastai's: `save_model` and `load_model` are the ones without pickle"
from fastai.basics import *
from fastai.callback.all import *
from fastai.losses import *
from fastai.metrics import *

from .data import *
from .baseline import *
from .loss import *
from .optimizer import *
from .model import *
from .callback import *
from .learner import *
from .scratch import init_params, linear1, calc_grad, train_epoch, validate_epoch, train_model
from .interpret import *
from .inference import *
from .checkpoint import *
from .report import *
