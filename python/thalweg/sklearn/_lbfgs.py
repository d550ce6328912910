"""The solver "lbfgs": SciPy's, as in scikit-learn; the core computes loss and gradient."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

if TYPE_CHECKING:
    from thalweg import Trainer
    from thalweg.sklearn._base import Objective


def train(
    trainer: "Trainer",
    objective: "Objective",
    data: tuple[Any, Any, Any],
    decay: npt.NDArray[np.floating[Any]],
    *,
    tol: float,
    max_iter: int,
    max_fun: int,
) -> tuple[float, int, list[Warning]]:
    """Train on all data at once; return the last loss, the iterations, and what to warn of.

    `decay` is the strength of the penalty on each parameter. After an error or Ctrl-C, the
    parameters are as they were before.
    """
    model = trainer.model
    before = model.flat_parameters

    def function(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        model.flat_parameters = theta
        model.zero_grad()
        loss = trainer.backward(*data)
        pull = decay * theta
        gradient = objective.scale * model.flat_gradients + pull
        return objective.scale * loss + 0.5 * float(pull @ theta), gradient.astype(np.float64)

    try:
        found = minimize(
            function,
            before.astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            # Decreases below the model's precision count as no change.
            options={
                "maxiter": max_iter,
                "maxfun": max_fun,
                "gtol": tol,
                "ftol": max(2.2e-9, float(np.finfo(model.dtype).eps)),
            },
        )
    except BaseException:
        model.flat_parameters = before
        raise
    finally:
        model.zero_grad()
    model.flat_parameters = found.x
    doubts: list[Warning] = []
    if found.status != 0:
        text = (
            f"lbfgs failed to converge after {found.nit} iterations (status={found.status}): "
            f"{found.message}. Increase max_iter, or scale the data"
        )
        doubts.append(ConvergenceWarning(text))
    penalty = 0.5 * float((decay * found.x) @ found.x)
    loss = (float(found.fun) - penalty) / objective.scale
    return objective.shown(loss, penalty), min(int(found.nit), max_iter), doubts
