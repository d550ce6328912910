"""The losses, one module for each kind."""

from thalweg import _habits
from thalweg.nn._losses._base import CoreLoss as CoreLoss
from thalweg.nn._losses._base import Loss as Loss
from thalweg.nn._losses._base import LossFunction as LossFunction
from thalweg.nn._losses._classes import BCEWithLogitsLoss as BCEWithLogitsLoss
from thalweg.nn._losses._classes import CrossEntropyLoss as CrossEntropyLoss
from thalweg.nn._losses._classes import DistillationLoss as DistillationLoss
from thalweg.nn._losses._custom import CustomLoss as CustomLoss
from thalweg.nn._losses._custom import FunctionLoss as FunctionLoss
from thalweg.nn._losses._custom import NoLoss as NoLoss
from thalweg.nn._losses._derivatives import DerivativeLoss as DerivativeLoss
from thalweg.nn._losses._errors import HuberLoss as HuberLoss
from thalweg.nn._losses._errors import L1Loss as L1Loss
from thalweg.nn._losses._errors import MSELoss as MSELoss
from thalweg.nn._losses._errors import QuantileLoss as QuantileLoss
from thalweg.nn._losses._likelihoods import GaussianNLLLoss as GaussianNLLLoss
from thalweg.nn._losses._likelihoods import PoissonNLLLoss as PoissonNLLLoss
from thalweg.nn._losses._named import loss_of as loss_of

_habits.name_methods("Loss", CoreLoss)
