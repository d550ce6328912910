"""Diagnostics before, during and after training.

How well a network is conditioned; which weights represent the same function; which frequencies are
learned first; how noisy the gradients of batches are.
"""

import typing as _typing

from thalweg.diagnostics._alignment import Distance as Distance
from thalweg.diagnostics._alignment import align as align
from thalweg.diagnostics._alignment import barrier as barrier
from thalweg.diagnostics._alignment import distance as distance
from thalweg.diagnostics._conditioning import Conditioning as Conditioning
from thalweg.diagnostics._conditioning import StageConditioning as StageConditioning
from thalweg.diagnostics._conditioning import batch_jacobian as batch_jacobian
from thalweg.diagnostics._conditioning import conditioning as conditioning
from thalweg.diagnostics._conditioning import jacobian as jacobian
from thalweg.diagnostics._noise import GradientNoise as GradientNoise
from thalweg.diagnostics._noise import gradient_noise as gradient_noise
from thalweg.diagnostics._spectrum import SpectralBias as SpectralBias
from thalweg.diagnostics._spectrum import ntk_eigenvalues as ntk_eigenvalues
from thalweg.diagnostics._spectrum import spectral_bias as spectral_bias
from thalweg.diagnostics._symmetry import BalanceMonitor as BalanceMonitor
from thalweg.diagnostics._symmetry import balance as balance
from thalweg.diagnostics._symmetry import balancedness as balancedness
from thalweg.diagnostics._symmetry import rescale as rescale

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    _CURVATURE = "it is in tw.curvature: {}"
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("condition", "condition_number", "cond", "singular_values"),
                "it is conditioning(model, x)",
            ),
            **dict.fromkeys(("jac", "jacrev", "jacfwd"), "it is jacobian(model, x)"),
            **dict.fromkeys(("saliency", "importance", "explain"), "it is jacobian(model, x)"),
            **dict.fromkeys(
                ("dead_units", "dead_neurons", "dead_relu"),
                "continual.metrics.plasticity(model, x).dead_units is their share; "
                "conditioning(model, x) prints the rank of each layer's output",
            ),
            **dict.fromkeys(
                ("activations", "hooks"), "model[:2](x) returns the output of the first two layers"
            ),
            **dict.fromkeys(("noise_scale", "gradient_noise_scale"), "it is gradient_noise"),
            **dict.fromkeys(
                ("hessian", "Hessian"), _CURVATURE.format("Operator(model, x, y, loss=...)")
            ),
            **dict.fromkeys(("sharpness", "eigenvalues"), _CURVATURE.format("top_eigenvalues")),
            **dict.fromkeys(("ntk", "NTK", "empirical_ntk"), _habits.NTK),
            **dict.fromkeys(("rebasin", "git_rebasin", "match"), "it is align"),
        },
    )
