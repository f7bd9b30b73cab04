"The names for everyday use, ours after fastai's: `save_model` and `load_model` are the ones without pickle"
from fastai.vision.all import *

from .data.idx import DataError, Digits
from .data.cache import cache_file, read_cache
from .data.download import *
from .data.source import *
from .data.dataset import *
from .data.show import *
from .data.loader import *
from .baseline import *
from .loss import *
from .optimizer import *
from .model import *
from .callback.augment import *
from .callback.training import *
from .callback.monitor import *
from .recipe import *
from .learner import *
from .scratch import init_params, linear1, calc_grad, train_epoch, validate_epoch, train_model
from .stats import *
from .interpret.predictions import *
from .interpret.weights import *
from .interpret.surface import *
from .inference.image import *
from .inference.saved import *
from .inference.reading import *
from .inference.onnx import *
from .inference.page import *
from .run.checkpoint import *
from .run.history import *
from .run.report import *
from .run.compare import *
from .run.train import *
from .salt.rle import *
from .salt.metric import *
from .salt.loss import *
from .salt.model import *
from .salt.make import *
from .salt.data import *
from .salt.learner import *
from .salt.report import *
from .salt.run import *
from .salt.ladder import *
