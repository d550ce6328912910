"""Adafactor."""

from typing import Any, ClassVar, Literal

from thalweg import _checks
from thalweg.optim._arguments import Checks
from thalweg.optim._optimizer import Conventions, Optimizer


def _two_eps(name: str, value: Any) -> tuple[float | None, float]:
    """Check a pair of numbers, of which the first may be None."""
    first, second = _checks.two(name, value, " >= 0, or None and such a number")
    first = None if first is None else _checks.real(f"{name}[0]", first, 0)
    return first, _checks.real(f"{name}[1]", second, 0)


class Adafactor(Optimizer):
    r"""Steps scaled by squared gradients, of which only row and column means are kept.

    Its state takes one number for each row and column of a weight, and one for each element of a
    bias, which is very little.

    Parameters
    ----------
    lr : float, default 1e-2
        The largest relative step :math:`\eta \ge 0`, see the notes.
    beta2_decay : float, default -0.8
        :math:`\tau \le 0`: the decay of the means is :math:`\beta_t = 1 - t^\tau`.
    eps : tuple of a float or None and a float, default (None, 1e-3)
        :math:`\varepsilon_1, \varepsilon_2 \ge 0`. None is the machine epsilon of the model's
        dtype; 1e-30 in "optax".
    d : float, default 1
        The largest root mean square of a direction, at least 1.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled.
    min_dim_size_to_factor : int, keyword only, optional
        Weights with fewer inputs or outputs than this keep all their squares. By default 1; 128 in
        "optax".
    convention : {"torch", "optax"}, keyword only
        See the notes. As an attribute, it can only be read.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the convention is not one of these.

    Notes
    -----
    For a weight with gradient :math:`G` in step :math:`t = 1, 2, \dots`

    .. math::

        r &\leftarrow \beta_t r + (1 - \beta_t)\, \text{mean of } G^2 \text{ by row}, \qquad
        c \leftarrow \beta_t c + (1 - \beta_t)\, \text{mean of } G^2 \text{ by column} \\
        V &= r c^\top / \max(\operatorname{mean} r, \varepsilon_1), \qquad
        U = G / \max(\sqrt V, \varepsilon_1), \qquad
        \hat U = U / \max(1, \operatorname{rms}(U)/d) \\
        \theta &\leftarrow (1 - \eta\lambda)\,\theta
            - \max(\varepsilon_2, \operatorname{rms}(\theta))\, \min(\eta, 1/\sqrt t)\, \hat U

    For a bias, :math:`V` is the running mean of :math:`G^2` itself.

    - "optax" adds :math:`\varepsilon_1` to :math:`G^2` instead, as in the paper, and steps by
      :math:`\theta \leftarrow (1 - \lambda)\,\theta - \max(\varepsilon_2,
      \operatorname{rms}(\theta))\,\eta\,\hat U`: :math:`\eta` is the rate, and not in the decay.

    In `state_dict` the arrays ``"row_var"`` and ``"col_var"`` have one element for each output and
    each input of the factored weights; ``"variance"`` has one for each of the other parameters,
    block by block.

    References
    ----------
    Shazeer & Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
    arXiv:1804.04235, algorithms 4 and 5.
    """

    _conventions: ClassVar[Conventions] = {
        "torch": {"min_dim_size_to_factor": 1},
        "optax": {"min_dim_size_to_factor": 128},
    }
    _own_checks: ClassVar[Checks] = {"eps": _two_eps}

    beta2_decay: float
    eps: tuple[float | None, float]
    d: float
    weight_decay: float
    min_dim_size_to_factor: int
    convention: str

    def __init__(
        self,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        min_dim_size_to_factor: int | None = None,
        convention: Literal["torch", "optax"] = "torch",
    ) -> None:
        super().__init__(
            "adafactor",
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            min_dim_size_to_factor=min_dim_size_to_factor,
            convention=convention,
        )
