"""The model: layers one after another over one flat array of parameters.

Here is `Sequential`. `_base` makes one and says what it is, `_summary` shows it, `_calling`
computes, `_parameters` has its numbers, `_files` keeps it, `_copies` makes others of it.
"""

from thalweg import _habits
from thalweg.nn._sequential._base import SequentialBase
from thalweg.nn._sequential._calling import Calling
from thalweg.nn._sequential._copies import Copied
from thalweg.nn._sequential._files import Kept
from thalweg.nn._sequential._parameters import Parameters
from thalweg.nn._sequential._summary import Summarized


class Sequential(Summarized, Calling, Kept, Copied):
    """Layers applied one after another.

    Parameters
    ----------
    *layers : Layer
        The layers in order, e.g. ``nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)``. At least
        one is a `Linear`: it says how wide the input is.
    dtype : {"float32", "float64"}, keyword only
        Precision of the parameters and of all arithmetic. Inputs of another dtype are converted.
    seed : int, keyword only, default 0
        Seed of the initial parameters and of the shuffling in `thalweg.Trainer.fit`, from 0 to
        2**64 - 1. A seed gives the same model on every machine, so models that are to differ, as
        those of an ensemble or two critics, need seeds of their own.

    Raises
    ------
    ArgumentError
        If no layer is a `Linear`, something is not a layer, or an option is unknown.
    ShapeError
        If a layer does not fit the one before it; the message names both.

    Notes
    -----
    All parameters live in one array, in the order of `state_dict`. The layers are only
    descriptions, so one description may be used several times; every use has parameters of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), seed=1)
    >>> model(np.zeros((5, 2))).shape
    (5, 1)
    >>> model.num_parameters
    33
    """


_habits.name_methods("Sequential", SequentialBase, Summarized, Calling, Parameters, Kept, Copied)
