"""Muon."""

from typing import ClassVar, Self

from thalweg import _checks
from thalweg.optim._optimizer import Conventions, Optimizer


class Muon(Optimizer):
    r"""Momentum with all singular values made about 1, for hidden weights; AdamW for the rest.

    By its author's rule it is for the weights between the first and the last `nn.Linear`. Those
    two, biases and the parameters of normalizations take steps of `AdamW` in the same optimizer.
    `matrices` and `add_group` choose otherwise.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`; 0.02 is usual for the matrices, see `adjust_lr_fn`.
    weight_decay : float, default 0.1
        :math:`\lambda \ge 0`, decoupled, of all parameters. (Optax' default is 0.)
    momentum : float, default 0.95
        :math:`\mu` in [0, 1).
    nesterov : bool, default True
        Whether the momentum looks one step ahead.
    ns_coefficients : tuple of three floats, default (3.4445, -4.7750, 2.0315)
        :math:`a, b, c` of the iteration.
    eps : float, default 1e-7
        The least norm :math:`\varepsilon \ge 0` that a matrix is divided by.
    ns_steps : int, default 5
        Steps of the iteration, below 100.
    adjust_lr_fn : {"original", "match_rms_adamw"}, optional
        Which :math:`s`: :math:`\sqrt{\max(1, \text{out}/\text{in})}`, the default, or
        :math:`0.2 \sqrt{\max(\text{out}, \text{in})}`, by which steps are as large as AdamW's and
        one learning rate does for all.
    matrices : {"hidden", "all", "none"}, keyword only, default "hidden"
        Which parameters are Muon's: all weights but those of the first and the last layer, all
        weights, or none but those of groups.
    adam_betas : tuple of two floats, keyword only, default (0.9, 0.95)
        AdamW's, each in [0, 1).
    adam_eps : float, keyword only, default 1e-8
        AdamW's, from 0 on.
    adam_lr_scale : float, keyword only, default 1
        AdamW's learning rate is so many times `lr`.
    convention : str, keyword only, default "torch"
        "torch" or "optax", see the notes.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the convention is not one of these.
    ThalwegError
        If the model has no such matrix; found out when the optimizer is first used.

    Notes
    -----
    For a weight :math:`W` (out, in) with the gradient :math:`G`

    .. math::

        B &\leftarrow \mu B + (1 - \mu) G, \qquad
            U = (1 - \mu) G + \mu B \text{ with Nesterov, else } B \\
        X &= U / \max(\lVert U \rVert_F, \varepsilon), \qquad
            \text{then five times } X \leftarrow a X + (b A + c A^2) X, \quad A = X X^\top \\
        W &\leftarrow (1 - \eta\lambda) W - \eta\, s\, X

    The iteration does not converge, and is not meant to: singular values of :math:`U` from
    :math:`0.01 \lVert U \rVert_F` on end up between 0.68 and 1.14. It takes
    :math:`20\,n k^2 + 10\,k^3` operations for a weight of sides :math:`n \ge k`; all in the
    model's dtype. (PyTorch's works in bfloat16.)

    - "optax" corrects the bias of :math:`B` and :math:`G` in :math:`U`, adds :math:`\varepsilon` to
      the norm, and for the rest takes steps of `NAdam` in the convention "optax", with decoupled
      decay, if `nesterov`.

    References
    ----------
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon; Liu et al. 2025, "Muon is scalable for LLM training",
    arXiv:2502.16982 (``"match_rms_adamw"``).

    Examples
    --------
    The last layer by Muon, too, and biases without decay:

    >>> from thalweg import optim
    >>> optimizer = optim.Muon(lr=0.02, adam_lr_scale=0.1).add_group("4.weight", muon=True)
    >>> optimizer = optimizer.add_group("*.bias", weight_decay=0.0)
    """

    _conventions: ClassVar[Conventions] = {"torch": {}, "optax": {}}

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        matrices: str = "hidden",
        adam_betas: tuple[float, float] = (0.9, 0.95),
        adam_eps: float = 1e-8,
        adam_lr_scale: float = 1.0,
        convention: str = "torch",
    ) -> None:
        super().__init__(
            "muon",
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn="original" if adjust_lr_fn is None else adjust_lr_fn,
            matrices=matrices,
            adam_betas=adam_betas,
            adam_eps=adam_eps,
            adam_lr_scale=adam_lr_scale,
            convention=convention,
        )

    def add_group(
        self,
        pattern: str,
        *,
        lr_scale: float = 1.0,
        weight_decay: float | None = None,
        frozen: bool = False,
        muon: bool | None = None,
    ) -> Self:
        """Treat the parameters whose names match a pattern otherwise than the rest.

        Parameters
        ----------
        pattern : str
            As in `Optimizer.add_group`.
        lr_scale : float, keyword only, default 1
            As there.
        weight_decay : float, keyword only, optional
            As there.
        frozen : bool, keyword only, default False
            As there.
        muon : bool, keyword only, optional
            Whether weights among them take steps of Muon, or of AdamW; by default as `matrices`
            says.

        Returns
        -------
        Muon
            This one.

        Raises
        ------
        ArgumentError
            As there.
        """
        choices, overrides = {}, {}
        if muon is not None:
            choices["muon"] = _checks.flag("muon", muon)
            overrides["matrices"] = "all" if muon else "none"
        return self._add_group(pattern, lr_scale, weight_decay, frozen, choices, overrides)
