"""Pictures of training runs, checks and diagnostics, drawn with matplotlib.

Without `ax`, a function draws into a new figure of pyplot, which keeps it until it is closed.
Programs that go on running close it, ``plt.close(ax.figure)``, or pass the axes of a figure of
their own, ``matplotlib.figure.Figure().subplots()``.
"""

import typing as _typing

from thalweg.plot._continual import task_matrix as task_matrix
from thalweg.plot._continual import tasks as tasks
from thalweg.plot._curvature import spectrum as spectrum
from thalweg.plot._diagnostics import spectral_bias as spectral_bias
from thalweg.plot._gradcheck import gradcheck as gradcheck
from thalweg.plot._optim import path as path
from thalweg.plot._optim import schedule as schedule
from thalweg.plot._training import history as history
from thalweg.plot._training import lr_finder as lr_finder
from thalweg.plot._training import training as training

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("loss", "losses", "loss_curve", "learning_curve", "curves", "metrics"),
                "it is plot.history(run), of one History or several",
            ),
            **dict.fromkeys(
                ("landscape", "loss_landscape", "surface", "contour", "contours"),
                "plot.path(points, function) draws contours of a function of two numbers, such as "
                "the loss in a plane through a model's parameters",
            ),
            **dict.fromkeys(
                ("eigenvalues", "spectral_density", "hessian"), "it is plot.spectrum(density)"
            ),
        },
    )
