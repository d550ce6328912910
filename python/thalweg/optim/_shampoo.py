"""Shampoo."""

from typing import Any, ClassVar

from thalweg import _checks
from thalweg.errors import ArgumentError
from thalweg.optim._arguments import Checks
from thalweg.optim._optimizer import Optimizer


def _betas(name: str, value: Any) -> tuple[float, float]:
    """Two numbers, of which the second may be 1."""
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name} must be two numbers, in [0, 1) and in [0, 1]; got {value!r}"
        ) from None
    first = _checks.real(f"{name}[0]", first, 0, 1)
    return first, _checks.real(f"{name}[1]", second, 0, 1, "[]")


class Shampoo(Optimizer):
    r"""Gradients of weights multiplied from both sides by inverse roots of their squares.

    Where `Adam` divides every element by its own size, Shampoo also takes account of how the rows
    of a gradient, and its columns, go together. Biases, the parameters of normalizations and
    weights with two long sides take steps of `AdamW` in the same optimizer.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`. With grafting, that of Adam (1e-3 is usual).
    betas : tuple of two floats, default (0.9, 1.0)
        :math:`\beta_1` in [0, 1), of the averaged gradient; :math:`\beta_2` in [0, 1], of the
        factors: 1 sums them up, as in the paper, so that steps become shorter as in `Adagrad`.
    eps : float, default 1e-12
        :math:`\varepsilon \ge 0`, added to the factors.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled, of all parameters.
    max_preconditioner_dim : int, keyword only, default 1024
        A weight with more outputs (inputs) has no factor on that side.
    precondition_frequency : int, keyword only, default 1
        Roots are taken anew every so many steps. Taking them is most of the work: 10 to 100 is
        usual for wide layers, with grafting.
    start_preconditioning_step : int, keyword only, optional
        Roots are first taken in this step, from 1 on; before, all steps are AdamW's. By default
        that is `precondition_frequency`.
    grafting : {"adam"}, keyword only, optional
        Whose length the step of a weight has: Adam's, or by default its own.
    adam_beta2 : float, keyword only, default 0.999
        Adam's second decay, in [0, 1), in grafting and for the rest; its first one is
        :math:`\beta_1`.
    adam_eps : float, keyword only, default 1e-8
        Adam's, from 0 on.
    adam_lr_scale : float, keyword only, default 1
        The learning rate of what takes steps of AdamW is so many times `lr`.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    For a weight :math:`W` (out, in) with the gradient :math:`G` in step :math:`t = 1, 2, \dots`

    .. math::

        L &\leftarrow \beta_2 L + (1 - \beta_2)\, G G^\top, \qquad
            R \leftarrow \beta_2 R + (1 - \beta_2)\, G^\top G, \\
        M &\leftarrow \beta_1 M + (1 - \beta_1)\, G, \\
        U &= \left(\frac{L}{1 - \beta_2^t} + \varepsilon I\right)^{-1/4}
            \frac{M}{1 - \beta_1^t}
            \left(\frac{R}{1 - \beta_2^t} + \varepsilon I\right)^{-1/4} \\
        W &\leftarrow (1 - \eta\lambda)\, W - \eta\, s\, U

    where for :math:`\beta_2 = 1` the factors are the sums of :math:`G G^\top` and
    :math:`G^\top G`, without a correction. :math:`s` is 1, or with grafting
    :math:`\lVert A \rVert / \lVert U \rVert` for Adam's direction :math:`A`. If one side has no
    factor, the exponent of the other is -1/2. In the first step without :math:`\varepsilon`
    :math:`U` is the orthogonal factor of :math:`G`, as `Muon` approximates it.

    Eigenvalues below :math:`n u` of the largest one of :math:`n`, with the rounding error :math:`u`
    of the model's dtype, are rounding errors: they count as 0, but with :math:`\varepsilon` as at
    least so much; and not at all if :math:`\varepsilon` is 0.

    Names, defaults and formula are those of Distributed Shampoo for PyTorch, with
    ``target_parameter_dimensionality=2``; grafting is ``AdamPreconditionerConfig(beta2, epsilon)``
    there. It differs in three things: it cuts sides longer than ``max_preconditioner_dim`` into
    blocks, gives vectors a factor, too, and without grafting steps along the gradient before the
    first roots.

    Roots take some :math:`10 n^3` operations for a side of :math:`n`, on one thread for each
    side; products :math:`4 n k (n + k)` for a weight of sides :math:`n, k`, on all.

    In `state_dict` the arrays ``"factors"`` and ``"roots"`` have for each weight :math:`L` and
    :math:`R`, row by row, and their inverse roots, as far as the weight has them.

    References
    ----------
    Gupta, Koren & Singer 2018, "Shampoo: preconditioned stochastic tensor optimization",
    arXiv:1802.09568; Shi et al. 2023, "A distributed data-parallel PyTorch implementation of the
    Distributed Shampoo optimizer", arXiv:2309.06497.

    Examples
    --------
    With Adam's learning rate, and roots from every 20th step:

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
            "none" if value is None else _checks.one_of(name, value, ("none", "adam"))
        ),
        "adam_beta2": lambda name, value: _checks.real(name, value, 0, 1),
    }

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
        grafting: str | None = None,
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
