"""Sharpness-aware minimization."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self

from thalweg import _checks, _core
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, UnsupportedError
from thalweg.nn import Sequential
from thalweg.optim._arguments import same
from thalweg.optim._full_batch import FullBatchOptimizer
from thalweg.optim._optimizer import Given, Optimizer, Options, made


class SAM(Optimizer):
    r"""Sharpness-aware minimization around another optimizer: it seeks flat minima.

    .. math::

        \epsilon = \rho\,\frac{g}{\lVert g \rVert + 10^{-12}}, \quad g = \nabla L(\theta),
        \qquad \text{step of the base from } \nabla L(\theta + \epsilon)

    The update of :math:`\theta` uses the gradient at :math:`\theta + \epsilon`, where the loss of
    the batch is, to first order, the largest at distance :math:`\rho`. With ``adaptive``, distances
    are relative to the size of each parameter, :math:`\epsilon = \rho\,\theta^2 g / (\lVert
    |\theta| g \rVert + 10^{-12})`, element by element. Every step computes two gradients and takes
    about twice as long. With :math:`\rho = 0` it equals the base. As attributes, its arguments can
    only be read; options of the base can be set there, ``sam.base.momentum = 0.5``.

    Parameters
    ----------
    base : Optimizer
        The optimizer that takes the steps; its learning rate, groups and averages are this one's.
        L-BFGS and Levenberg-Marquardt, which themselves evaluate several points, are rejected.
    rho : float, default 0.05
        :math:`\rho \ge 0`.
    adaptive : bool, default False
        Whether to use the scale-invariant form, ASAM without its :math:`\eta`, for which
        :math:`\rho` is usually ten times as large.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong kind or out of range.

    Notes
    -----
    The reported loss and accuracy are those at :math:`\theta`. The running averages of
    `BatchNorm1d` are updated in the first of the two passes only, and `Dropout` drops the same
    elements in both. :math:`\epsilon` does not move frozen parameters. Gradients are clipped after
    all this; with ``accumulate_grad_batches`` each batch has its own :math:`\epsilon`. A custom
    loss (`nn.CustomLoss`) is called twice per step, and must return the same for the same outputs.
    SAM works in `thalweg.Trainer`, and not by manual calls of `step(model)`, which have only one
    gradient.

    References
    ----------
    Foret, Kleiner, Mobahi & Neyshabur 2021, "Sharpness-aware minimization for efficiently improving
    generalization", arXiv:2010.01412; Kwon et al. 2021, "ASAM", arXiv:2102.11600. Constants are
    those of the usual PyTorch code, github.com/davda54/sam.

    Examples
    --------
    >>> from thalweg import optim
    >>> optimizer = optim.SAM(optim.SGD(lr=0.1, momentum=0.9), rho=0.05)
    >>> optimizer.lr
    0.1
    """

    #: Its trainer has been told.
    _fixed = ("rho", "adaptive")

    rho: float
    adaptive: bool

    def __init__(self, base: Optimizer, rho: float = 0.05, adaptive: bool = False) -> None:
        given: Any = base
        if not isinstance(given, Optimizer) or isinstance(given, (FullBatchOptimizer, SAM)):
            raise ArgumentError(
                "base must be an optimizer that takes one gradient per step, e.g. "
                f"optim.SGD(lr=0.1); got {base!r}"
            )
        self._base = base
        rho, adaptive = _checks.real("rho", rho, 0), _checks.flag("adaptive", adaptive)
        self._arguments = {"base": base, "rho": rho, "adaptive": adaptive}
        self._groups, self._by_hand = base._groups, base._by_hand

    @property
    def _options(self) -> Options:  # type: ignore[override]
        """The options that its state depends on: those of the base, and its own."""
        return {**self._base._options, "sam_rho": self.rho, "sam_adaptive": self.adaptive}

    @property  # a property, since the base replaces it when it meets a model
    def _core(self) -> _core.Optimizer:  # type: ignore[override]
        return self._base._core

    @property
    def base(self) -> Optimizer:
        """The optimizer that takes the steps."""
        return self._base

    def add_group(self, pattern: str, **options: Any) -> Self:
        """Add a group to the base; see `Optimizer.add_group`.

        Parameters
        ----------
        pattern : str
            Pattern for the names of parameters.
        **options
            As there.

        Returns
        -------
        SAM
            This optimizer.

        Raises
        ------
        ArgumentError
            As there.
        """
        self._base.add_group(pattern, **options)
        return self

    def step(self, model: Sequential) -> NoReturn:
        """Raise: one gradient is not enough.

        Parameters
        ----------
        model : Sequential

        Raises
        ------
        UnsupportedError
            Always: `thalweg.Trainer.step` and `fit` compute both gradients.
        """
        raise UnsupportedError(
            "SAM needs two gradients per step: use Trainer.step or Trainer.fit, which compute them"
        )

    def _meet(self, model: Sequential) -> None:
        self._base._meet(model)

    def _belonging(self, model: Sequential) -> list[Callable[[], None]]:
        return self._base._belonging(model)

    def _bound_to(self) -> Sequential | None:
        return self._base._bound_to()

    def _take(self, model: Sequential, *state: Any) -> None:
        self._base._take(model, *state)

    def _set_state(self, model: Sequential, *state: Any) -> None:
        self._base._set_state(model, *state)

    def _given(self) -> Given:
        return self._base._given()

    def _put_back(self, given: Given) -> None:
        self._base._put_back(given)

    def _given_in(self, options: Mapping[str, Any]) -> Given:
        rest, mine = dict(options), self._options
        for name in ("sam_rho", "sam_adaptive"):
            if not same(saved := rest.pop(name, None), mine[name]):
                self._refuse_saved(name.removeprefix("sam_"), saved, mine[name])
        return self._base._given_in(rest)

    def _advice(self, name: str) -> str:
        if name != "base" and hasattr(type(self._base), name):
            return f": it is sam.base.{name}"
        return super()._advice(name)

    def _fresh(self) -> "SAM":
        return made(type(self), {**self._arguments, "base": self._base._fresh()})

    def _state(self) -> tuple[int, dict[str, float], dict[str, Array]]:
        return self._base._state()

    def __reduce__(self) -> Any:
        return made, (type(self), self._arguments), self._own()

    def __repr__(self) -> str:
        return f"SAM({self._base!r}, rho={self.rho!r}, adaptive={self.adaptive!r})"
