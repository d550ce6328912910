"""Problems whose minimum has a formula, or is found by steps that do.

What is linear in its parameters is solved in one call, by the factorizations of `numpy.linalg` in
float64. That gives a baseline before any training, and a way to refit the last layer afterwards.
`nonlinear_least_squares` solves such a problem in each of its steps.
"""

import typing as _typing

from thalweg.solve._linear import least_squares as least_squares
from thalweg.solve._linear import ridge as ridge
from thalweg.solve._linear_fit import LinearFit as LinearFit
from thalweg.solve._network import last_layer as last_layer
from thalweg.solve._network import network as network
from thalweg.solve._nonlinear import LeastSquaresFit as LeastSquaresFit
from thalweg.solve._nonlinear import nonlinear_least_squares as nonlinear_least_squares
from thalweg.solve._quadratic import Minimum as Minimum
from thalweg.solve._quadratic import quadratic as quadratic

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                (
                    "lstsq",
                    "ols",
                    "OLS",
                    "LinearRegression",
                    "linear_regression",
                    "normal_equations",
                ),
                "it is least_squares(x, y)",
            ),
            **dict.fromkeys(("Ridge", "tikhonov"), "it is ridge(x, y, alpha=...)"),
            **dict.fromkeys(
                ("RidgeCV", "ridge_cv", "gcv", "l_curve"),
                'it is ridge(x, y, alpha="gcv"), or "l_curve"',
            ),
            **dict.fromkeys(
                ("discrepancy", "morozov"),
                'it is ridge(x, y, alpha="discrepancy", noise=...)',
            ),
            "ridge_path": "it is ridge(x, y, alpha=[...]), with one fit for each penalty",
            **dict.fromkeys(
                ("truncated_svd", "tsvd", "TruncatedSVD"),
                "it is least_squares(x, y, rank=...)",
            ),
            **dict.fromkeys(
                ("levenberg_marquardt", "curve_fit", "leastsq", "gauss_newton"),
                "it is nonlinear_least_squares(residual, jacobian, theta); for a network, "
                "optim.LevenbergMarquardt",
            ),
            **dict.fromkeys(("solve", "cholesky"), "it is quadratic(h, b)"),
            "minimize": (
                "it is quadratic(h, b); optim.minimize takes steps of an optimizer on any function"
            ),
            **dict.fromkeys(("readout", "linear_probe"), "it is last_layer(model, x, y)"),
            **dict.fromkeys(
                ("lasso", "Lasso", "ElasticNet", "logistic_regression", "LogisticRegression"),
                "its minimum has no formula; train a model of one nn.Linear with a tw.Trainer",
            ),
        },
    )
