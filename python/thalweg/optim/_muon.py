"""Muon."""

from typing import Any, ClassVar, Literal, Self

from thalweg import _checks
from thalweg._habits import takes
from thalweg.optim._arguments import AdjustLr, Matrices
from thalweg.optim._optimizer import OF_GROUPS, Conventions, Optimizer


class Muon(Optimizer):
    r"""Momentum with all singular values set to about 1, for hidden weights; AdamW for the rest.

    Following its author's rule, it applies to the weights between the first and the last
    `nn.Linear`. Those two layers, biases and the parameters of normalizations take `AdamW` steps in
    the same optimizer. `matrices` and `add_group` change this.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`; 0.02 is usual for the matrices, see `adjust_lr_fn`.
    weight_decay : float, default 0.1
        :math:`\lambda \ge 0`, decoupled, for all parameters. (Optax' default is 0.)
    momentum : float, default 0.95
        :math:`\mu` in [0, 1).
    nesterov : bool, default True
        Whether to use Nesterov momentum, which looks one step ahead.
    ns_coefficients : tuple of three floats, default (3.4445, -4.7750, 2.0315)
        :math:`a, b, c` of the iteration.
    eps : float, default 1e-7
        The smallest norm :math:`\varepsilon \ge 0` by which a matrix is divided.
    ns_steps : int, default 5
        Steps of the iteration, below 100.
    adjust_lr_fn : {"original", "match_rms_adamw"}, optional
        The factor :math:`s`: :math:`\sqrt{\max(1, \text{out}/\text{in})}`, the default, or
        :math:`0.2 \sqrt{\max(\text{out}, \text{in})}`, which makes steps as large as AdamW's, so
        that one learning rate suits all parameters.
    matrices : {"hidden", "all", "none"}, keyword only, default "hidden"
        Which parameters Muon updates: all weights except those of the first and last layer, all
        weights, or only those selected by groups. As an attribute, it can only be read.
    adam_betas : tuple of two floats, keyword only, default (0.9, 0.95)
        AdamW's :math:`\beta_1, \beta_2`, each in [0, 1).
    adam_eps : float, keyword only, default 1e-8
        AdamW's :math:`\varepsilon`, at least 0.
    adam_lr_scale : float, keyword only, default 1
        AdamW's learning rate as a multiple of `lr`.
    convention : {"torch", "optax"}, keyword only
        See the notes. As an attribute, it can only be read.

    Raises
    ------
    ArgumentError
        If an option is outside its range, or the convention is not one of these.
    ThalwegError
        If the model has no such matrix; detected when the optimizer is first used.

    Notes
    -----
    For a weight :math:`W` (out, in) with gradient :math:`G`

    .. math::

        B &\leftarrow \mu B + (1 - \mu) G, \qquad
            U = (1 - \mu) G + \mu B \text{ with Nesterov, else } B \\
        X &= U / \max(\lVert U \rVert_F, \varepsilon), \qquad
            \text{then five times } X \leftarrow a X + (b A + c A^2) X, \quad A = X X^\top \\
        W &\leftarrow (1 - \eta\lambda) W - \eta\, s\, X

    The iteration is not meant to converge: singular values of :math:`U` above
    :math:`0.01 \lVert U \rVert_F` end up between 0.68 and 1.14. It takes
    :math:`20\,n k^2 + 10\,k^3` operations for a weight with sides :math:`n \ge k`, all in the
    model's dtype. (PyTorch uses bfloat16.)

    - "optax" corrects the bias of :math:`B` and :math:`G` in :math:`U`, adds :math:`\varepsilon` to
      the norm, and if `nesterov`, updates the rest by `NAdam` in the convention "optax", with
      decoupled decay.

    References
    ----------
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon; Liu et al. 2025, "Muon is scalable for LLM training",
    arXiv:2502.16982 (``"match_rms_adamw"``).

    Examples
    --------
    The last layer by Muon too, and biases without decay:

    >>> from thalweg import optim
    >>> optimizer = optim.Muon(lr=0.02, adam_lr_scale=0.1).add_group("4.weight", muon=True)
    >>> optimizer = optimizer.add_group("*.bias", weight_decay=0.0)
    """

    _conventions: ClassVar[Conventions] = {"torch": {}, "optax": {}}

    #: The averages of matrices and of the other parameters mean different things.
    _fixed = ("convention", "matrices")

    weight_decay: float
    momentum: float
    nesterov: bool
    ns_coefficients: tuple[float, float, float]
    eps: float
    ns_steps: int
    adjust_lr_fn: AdjustLr
    matrices: Matrices
    adam_betas: tuple[float, float]
    adam_eps: float
    adam_lr_scale: float
    convention: str

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: AdjustLr | None = None,
        *,
        matrices: Matrices = "hidden",
        adam_betas: tuple[float, float] = (0.9, 0.95),
        adam_eps: float = 1e-8,
        adam_lr_scale: float = 1.0,
        convention: Literal["torch", "optax"] = "torch",
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
            adjust_lr_fn=adjust_lr_fn,
            matrices=matrices,
            adam_betas=adam_betas,
            adam_eps=adam_eps,
            adam_lr_scale=adam_lr_scale,
            convention=convention,
        )

    @takes("add_group()", OF_GROUPS)
    def add_group(
        self,
        pattern: str,
        *,
        lr_scale: float | None = None,
        weight_decay: float | None = None,
        frozen: bool | None = None,
        muon: bool | None = None,
    ) -> Self:
        """Treat the parameters whose names match a pattern differently from the rest.

        Parameters
        ----------
        pattern : str
            As in `Optimizer.add_group`.
        lr_scale : float, keyword only, optional
            As there.
        weight_decay : float, keyword only, optional
            As there.
        frozen : bool, keyword only, optional
            As there.
        muon : bool, keyword only, optional
            Whether the weights among them take Muon steps or AdamW steps; by default as in earlier
            groups that match, else as set by `matrices`.

        Returns
        -------
        Muon
            This optimizer.

        Raises
        ------
        ArgumentError
            As there.
        """
        choices: dict[str, Any] = {}
        overrides: dict[str, float | bool | str] = {}
        if muon is not None:
            choices["muon"] = _checks.flag("muon", muon)
            overrides["matrices"] = "all" if muon else "none"
        return self._add_group(pattern, lr_scale, weight_decay, frozen, choices, overrides)
