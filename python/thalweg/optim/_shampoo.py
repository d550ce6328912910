"""Shampoo."""

from typing import Any, ClassVar, Literal, TypeAlias, get_args

from thalweg import _checks
from thalweg.optim._arguments import Checks
from thalweg.optim._optimizer import Optimizer

#: Whose steps give the length of a step.
Grafting: TypeAlias = Literal["none", "adam"]


def _betas(name: str, value: Any) -> tuple[float, float]:
    """Check a pair of numbers, of which the second may be 1."""
    first, second = _checks.two(name, value, ", in [0, 1) and in [0, 1]")
    first = _checks.real(f"{name}[0]", first, 0, 1)
    return first, _checks.real(f"{name}[1]", second, 0, 1, "[]")


class Shampoo(Optimizer):
    r"""Gradients of weights, multiplied on both sides by inverse roots of their second moments.

    Where `Adam` divides every element by its own size, Shampoo also takes into account the
    correlations between the rows and between the columns of a gradient. Biases, the parameters of
    normalizations and weights with two long sides take `AdamW` steps in the same optimizer.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`. With grafting, use Adam's (1e-3 is usual).
    betas : tuple of two floats, default (0.9, 1.0)
        :math:`\beta_1` in [0, 1), for the averaged gradient; :math:`\beta_2` in [0, 1], for the
        factors: 1 sums them up, as in the paper, so that steps become shorter as in `Adagrad`.
    eps : float, default 1e-12
        :math:`\varepsilon \ge 0`, added to the factors.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled, for all parameters.
    max_preconditioner_dim : int, keyword only, default 1024
        A weight with more outputs (or inputs) than this has no factor on that side.
    precondition_frequency : int, keyword only, default 1
        Recompute roots every so many steps. This is most of the work: 10 to 100 is usual for wide
        layers, with grafting. Set later, it leaves `start_preconditioning_step` as it is.
    start_preconditioning_step : int, keyword only, optional
        The step in which roots are first computed, from 1 up; before it, all steps are AdamW's. By
        default, this equals the `precondition_frequency` that is given.
    grafting : {"none", "adam"}, keyword only, optional
        Which length to give the step of a weight: Adam's, or by default its own.
    adam_beta2 : float, keyword only, default 0.999
        Adam's second decay rate, in [0, 1), for grafting and for the other parameters; its first
        one is :math:`\beta_1`.
    adam_eps : float, keyword only, default 1e-8
        Adam's :math:`\varepsilon`, at least 0.
    adam_lr_scale : float, keyword only, default 1
        The learning rate of the parameters that take AdamW steps, as a multiple of `lr`.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    For a weight :math:`W` (out, in) with gradient :math:`G` in step :math:`t = 1, 2, \dots`

    .. math::

        L &\leftarrow \beta_2 L + (1 - \beta_2)\, G G^\top, \qquad
            R \leftarrow \beta_2 R + (1 - \beta_2)\, G^\top G, \\
        M &\leftarrow \beta_1 M + (1 - \beta_1)\, G, \\
        U &= \left(\frac{L}{1 - \beta_2^t} + \varepsilon I\right)^{-1/4}
            \frac{M}{1 - \beta_1^t}
            \left(\frac{R}{1 - \beta_2^t} + \varepsilon I\right)^{-1/4} \\
        W &\leftarrow (1 - \eta\lambda)\, W - \eta\, s\, U

    where for :math:`\beta_2 = 1` the factors are the sums of :math:`G G^\top` and :math:`G^\top G`,
    without correction. :math:`s` is 1, or with grafting :math:`\lVert A \rVert / \lVert U \rVert`
    for Adam's direction :math:`A`. If one side has no factor, the exponent of the other is -1/2. In
    the first step without :math:`\varepsilon`, :math:`U` is the orthogonal factor of :math:`G`,
    which `Muon` approximates.

    Eigenvalues below :math:`n u` times the largest of :math:`n`, with the rounding error :math:`u`
    of the model's dtype, are rounding errors. They count as 0, but with :math:`\varepsilon` as at
    least that bound; if :math:`\varepsilon` is 0, they do not count at all.

    Names, defaults and formula are those of Distributed Shampoo for PyTorch, with
    ``target_parameter_dimensionality=2``; grafting is ``AdamPreconditionerConfig(beta2, epsilon)``
    there. It differs in three respects: it splits sides longer than ``max_preconditioner_dim`` into
    blocks, gives vectors a factor too, and without grafting steps along the gradient before the
    first roots.

    Roots take some :math:`10 n^3` operations for a side of length :math:`n`, on one thread per
    side; products take :math:`4 n k (n + k)` for a weight with sides :math:`n, k`, on all threads.

    In `state_dict`, the arrays ``"factors"`` and ``"roots"`` hold for each weight :math:`L` and
    :math:`R`, row by row, and their inverse roots, as far as the weight has them.

    References
    ----------
    Gupta, Koren & Singer 2018, "Shampoo: preconditioned stochastic tensor optimization",
    arXiv:1802.09568; Shi et al. 2023, "A distributed data-parallel PyTorch implementation of the
    Distributed Shampoo optimizer", arXiv:2309.06497.

    Examples
    --------
    With Adam's learning rate, and roots every 20th step:

    >>> from thalweg import optim
    >>> optimizer = optim.Shampoo(
    ...     lr=1e-3, betas=(0.9, 0.99), grafting="adam", precondition_frequency=20
    ... )
    """

    _own_checks: ClassVar[Checks] = {
        "betas": _betas,
        "max_preconditioner_dim": lambda name, value: _checks.integer(name, value, 1),
        "precondition_frequency": lambda name, value: _checks.integer(name, value, 1),
        "start_preconditioning_step": lambda name, value: _checks.integer(name, value, 1),
        "grafting": lambda name, value: (
            "none"
            if value is None
            else _checks.one_of(name, value, get_args(Grafting), also="None")
        ),
        "adam_beta2": lambda name, value: _checks.real(name, value, 0, 1),
    }

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_preconditioner_dim: int
    precondition_frequency: int
    start_preconditioning_step: int
    grafting: Grafting | None
    adam_beta2: float
    adam_eps: float
    adam_lr_scale: float

    def __init__(
        self,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 1.0),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        *,
        max_preconditioner_dim: int = 1024,
        precondition_frequency: int = 1,
        start_preconditioning_step: int | None = None,
        grafting: Grafting | None = None,
        adam_beta2: float = 0.999,
        adam_eps: float = 1e-8,
        adam_lr_scale: float = 1.0,
    ) -> None:
        if start_preconditioning_step is None:
            start_preconditioning_step = precondition_frequency
        super().__init__(
            "shampoo",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            max_preconditioner_dim=max_preconditioner_dim,
            precondition_frequency=precondition_frequency,
            start_preconditioning_step=start_preconditioning_step,
            grafting=grafting,
            adam_beta2=adam_beta2,
            adam_eps=adam_eps,
            adam_lr_scale=adam_lr_scale,
        )
