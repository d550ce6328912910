"""Optimizers, with the names, conventions and defaults of PyTorch.

Where Optax, Keras or textbooks compute something else under the same name, `convention` selects
that: it changes the formula, and the defaults of the options named in the docstring. The default
learning rate is always PyTorch's.
"""

import typing as _typing

from thalweg.optim import schedules as schedules
from thalweg.optim._adadelta import Adadelta as Adadelta
from thalweg.optim._adafactor import Adafactor as Adafactor
from thalweg.optim._adagrad import Adagrad as Adagrad
from thalweg.optim._adam import Adam as Adam
from thalweg.optim._adamax import Adamax as Adamax
from thalweg.optim._adamw import AdamW as AdamW
from thalweg.optim._averages import EMA as EMA
from thalweg.optim._averages import SWA as SWA
from thalweg.optim._lamb import LAMB as LAMB
from thalweg.optim._lbfgs import LBFGS as LBFGS
from thalweg.optim._levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from thalweg.optim._lion import Lion as Lion
from thalweg.optim._minimize import Descent as Descent
from thalweg.optim._minimize import minimize as minimize
from thalweg.optim._muon import Muon as Muon
from thalweg.optim._nadam import NAdam as NAdam
from thalweg.optim._optimizer import Optimizer as Optimizer
from thalweg.optim._prodigy import Prodigy as Prodigy
from thalweg.optim._radam import RAdam as RAdam
from thalweg.optim._rmsprop import RMSprop as RMSprop
from thalweg.optim._rprop import Rprop as Rprop
from thalweg.optim._sam import SAM as SAM
from thalweg.optim._schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from thalweg.optim._sgd import SGD as SGD
from thalweg.optim._shampoo import Shampoo as Shampoo

if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    import sys as _sys

    from thalweg import _habits

    _OWN_RULE = 'it is in the section "An optimizer of your own" of the page on loops'
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            "lr_scheduler": (
                "schedules are in optim.schedules; pass them to tw.Trainer(..., schedule=...)"
            ),
            "ExponentialMovingAverage": "it is optim.EMA; pass it to tw.Trainer(..., average=...)",
            "ASGD": "it is SGD; tw.Trainer(..., average=optim.SWA()) averages its parameters",
            **dict.fromkeys(
                ("Newton", "GaussNewton", "GN", "TrustRegion"),
                "LevenbergMarquardt takes damped Gauss-Newton steps for nn.MSELoss, LBFGS takes "
                "quasi-Newton steps; for others, a function for trainer.gradient_hook can solve "
                "with tw.curvature.Operator(model, x, y, loss=...).dense()",
            ),
            **dict.fromkeys(
                ("KFAC", "KFACOptimizer", "NaturalGradient", "NGD"),
                "Shampoo is similar; tw.curvature.kfac_factors(model, x, loss=...) returns the "
                "factors by which a function for trainer.gradient_hook can divide the gradient",
            ),
            **dict.fromkeys(
                ("Momentum", "MomentumOptimizer", "HeavyBall"), "it is SGD(lr=..., momentum=0.9)"
            ),
            **dict.fromkeys(("Nesterov", "NAG"), "it is SGD(lr=..., momentum=0.9, nesterov=True)"),
            **dict.fromkeys(("GradientDescent", "GD"), "it is SGD(lr=...)"),
            **dict.fromkeys(
                ("chain", "multi_transform", "partition", "masked", "named_chain"),
                "tw.Trainer(..., schedule=..., clip_grad_norm=..., average=...) takes the parts, "
                "optimizer.add_group(pattern, ...) treats some parameters differently, and a "
                "function for trainer.gradient_hook changes gradients",
            ),
            **dict.fromkeys(
                ("clip_by_global_norm", "clip_grad_norm", "clip_grad_norm_"),
                "tw.Trainer(..., clip_grad_norm=1.0) clips; in a hand-written loop, "
                "nn.utils.clip_grad_norm_(model, 1.0) does",
            ),
            **dict.fromkeys(("clip", "clip_grad_value"), "it is tw.Trainer(..., clip_grad_value=)"),
            **dict.fromkeys(
                ("apply_updates", "apply_if_finite"),
                "optimizer.step(model) updates the model from model.flat_gradients, unless that "
                "makes a number infinite or NaN",
            ),
            "incremental_update": "target.follow(model, step_size) does that",
            **dict.fromkeys(
                ("Lookahead", "lookahead"),
                "a callback whose on_step_end lets a copy follow the model, and the model the "
                f"copy: {_OWN_RULE}",
            ),
            **dict.fromkeys(
                ("AdaBelief", "adabelief"),
                f"a function for trainer.gradient_hook, with SGD: {_OWN_RULE}",
            ),
            "SWAG": _habits.SWAG,
            **dict.fromkeys(
                ("SGLD", "Langevin"),
                "a function for trainer.gradient_hook can add noise to the gradient of SGD",
            ),
            "swa_utils": "pass optim.EMA or optim.SWA to tw.Trainer(..., average=...)",
        },
    )
