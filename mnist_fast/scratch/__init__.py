"The training loop and the Learner from scratch: the public names of `scratch.loop` and `scratch.learner`"
from .loop import *
from .learner import *
