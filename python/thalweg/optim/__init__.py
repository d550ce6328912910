"""Optimizers, named and with the conventions and defaults of PyTorch."""

from thalweg.optim import schedules as schedules
from thalweg.optim._adam import Adam as Adam
from thalweg.optim._adamw import AdamW as AdamW
from thalweg.optim._averages import EMA as EMA
from thalweg.optim._averages import SWA as SWA
from thalweg.optim._optimizer import Optimizer as Optimizer
from thalweg.optim._sgd import SGD as SGD
