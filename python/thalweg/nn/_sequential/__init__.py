"""The model: layers in sequence over one flat array of parameters.

This module holds `Sequential`. `_base` constructs and describes a model, `_summary` shows it,
`_calling` computes, `_parameters` holds its numbers, `_files` saves and loads it, and `_copies`
makes other models from it.
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
        one must be a `Linear`: it determines the width of the input.
    dtype : {"float32", "float64"}, keyword only
        Precision of the parameters and of all arithmetic. Inputs of another dtype are converted.
    seed : int, keyword only, default 0
        Seed of the initial parameters and of the shuffling in `thalweg.Trainer.fit`, from 0 to
        2**64 - 1. A seed gives the same model on every machine, so models that should differ, such
        as those of an ensemble or two critics, need different seeds.

    Raises
    ------
    ArgumentError
        If no layer is a `Linear`, something is not a layer, or an option is unknown.
    ShapeError
        If a layer does not fit the previous one; the message names both.

    Notes
    -----
    All parameters live in one array, in the order of `state_dict`. The layers are only
    descriptions, so one description may be used several times; every use has its own parameters.
    ``model[0]`` is the first of them; ``model[:2]`` is a model of the first two, with a copy of
    their numbers, dtype and averages, whose output is an intermediate result of the whole model.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), seed=1)
    >>> model(np.zeros((5, 2))).shape
    (5, 1)
    >>> model.num_parameters
    33
    >>> model[:2](np.zeros((5, 2))).shape
    (5, 8)
    """


_habits.name_methods("Sequential", SequentialBase, Summarized, Calling, Parameters, Kept, Copied)
