"""The curvature of the loss: products with its Hessian, and what they reveal."""

import typing as _typing

from thalweg.curvature._eigenvalues import Eigenpairs as Eigenpairs
from thalweg.curvature._eigenvalues import top_eigenvalues as top_eigenvalues
from thalweg.curvature._jacobian import jacobian as jacobian
from thalweg.curvature._jacobian import jvp as jvp
from thalweg.curvature._jacobian import sample_gradients as sample_gradients
from thalweg.curvature._jet import jet as jet
from thalweg.curvature._kfac import KroneckerFactors as KroneckerFactors
from thalweg.curvature._kfac import kfac_factors as kfac_factors
from thalweg.curvature._monitor import StabilityMonitor as StabilityMonitor
from thalweg.curvature._operator import Operator as Operator
from thalweg.curvature._operator import fisher_vp as fisher_vp
from thalweg.curvature._operator import gnvp as gnvp
from thalweg.curvature._operator import hvp as hvp
from thalweg.curvature._spectrum import Estimate as Estimate
from thalweg.curvature._spectrum import SpectralDensity as SpectralDensity
from thalweg.curvature._spectrum import logdet as logdet
from thalweg.curvature._spectrum import spectral_density as spectral_density
from thalweg.curvature._spectrum import trace as trace
from thalweg.curvature._stability import Stability as Stability
from thalweg.curvature._stability import max_stable_lr as max_stable_lr

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    _EIGENVALUES = "it is top_eigenvalues(model, x, y, loss=..., k=1)"
    _BY_INPUTS = "tw.diagnostics.jacobian(model, x) is the Jacobian with respect to the inputs"
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("hessian", "Hessian", "HessianLinearOperator"),
                "Operator(model, x, y, loss=...) multiplies by it, and its dense() is the matrix",
            ),
            **dict.fromkeys(
                ("ggn", "GGN", "gauss_newton", "GGNLinearOperator"),
                'it is Operator(model, x, y, loss=..., kind="gauss_newton"), or gnvp',
            ),
            **dict.fromkeys(
                ("fisher", "fisher_information", "FisherMCLinearOperator"),
                'it is Operator(model, x, y, loss=..., kind="fisher"), or fisher_vp',
            ),
            **dict.fromkeys(
                ("vjp", "grad", "gradient"),
                f"{_habits.VJP}; {_BY_INPUTS}, and trainer.backward(x, y) computes gradients of a "
                "loss",
            ),
            **dict.fromkeys(
                ("jac", "jacfwd", "jacrev"),
                f"jacobian(model, x) is the one with respect to the parameters; {_BY_INPUTS}",
            ),
            **dict.fromkeys(("ntk", "NTK", "empirical_ntk"), _habits.NTK),
            **dict.fromkeys(("per_sample_gradients", "grad_sample"), _habits.PER_SAMPLE),
            "vhp": "the Hessian is symmetric: it is hvp",
            **dict.fromkeys(
                ("laplacian", "hessian_trace"),
                "trace(model, x, y, loss=...) is the trace of the Hessian with respect to the"
                " parameters; that with respect to the inputs is jet(model, x)[2].sum(axis=0)",
            ),
            **dict.fromkeys(("eigenvalues", "eigsh", "sharpness", "lambda_max"), _EIGENVALUES),
            **dict.fromkeys(("density", "density_plot", "spectrum"), "it is spectral_density"),
            **dict.fromkeys(
                ("Laplace", "laplace", "LaplaceApproximation", "uncertainty", "posterior"),
                _habits.LAPLACE,
            ),
            "SWAG": _habits.SWAG,
            **dict.fromkeys(("KFAC", "kfac", "KFACLinearOperator"), "it is kfac_factors"),
        },
    )
