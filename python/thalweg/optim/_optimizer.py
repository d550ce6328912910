"""What all optimizers share: the learning rate, a step by hand, and state that can be saved."""

import inspect
from collections.abc import Mapping
from typing import Any, Self

from thalweg import _arrays, _checks, _core
from thalweg.errors import ArgumentError
from thalweg.nn import Sequential


class Optimizer:
    """Base of all optimizers.

    An optimizer belongs to the first model that it steps, by hand or in a `thalweg.Trainer`: its
    averages are that model's. Using it with another model is an error.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        # What it was made with, so that it can be described and made again.
        made = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind(made, *args, **options)
        bound.apply_defaults()
        made._arguments = {k: v for k, v in bound.arguments.items() if k != "self"}
        return made

    _arguments: dict[str, Any]

    # `kind` is the core's name of the method, `options` its hyper-parameters, checked already.
    def __init__(self, kind: str, options: dict[str, float | bool]) -> None:
        self._options = options
        self._core = _core.Optimizer(kind, options)

    @property
    def lr(self) -> float:
        """The learning rate; assigning changes it from the next step on."""
        return self._core.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._core.set_lr(learning_rate(value))

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._core.steps

    def step(self, model: Sequential) -> None:
        """One step along ``model.flat_gradients``, for training loops written by hand.

        Parameters
        ----------
        model : Sequential
            Its parameters are changed; its gradients stay as they are.

        Raises
        ------
        ThalwegError
            If this optimizer belongs to another model.
        """
        self._core.step(model._core)

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, besides the model.

        Returns
        -------
        dict
            ``"steps"`` (steps taken), ``"options"`` (the hyper-parameters) and ``"arrays"``
            (running averages by name, each of shape (num_parameters,); none before the first step).
        """
        steps, arrays = self._core.state()
        return {"steps": steps, "options": {**self._options, "lr": self.lr}, "arrays": arrays}

    def load_state_dict(self, state_dict: Mapping[str, Any], model: Sequential) -> None:
        """Continues from a saved state, as if this optimizer had taken those steps itself.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict` of an optimizer of the same kind with the same options; only the
            learning rate may differ, and is taken from it.
        model : Sequential
            The model that this optimizer belongs to from now on. (PyTorch's optimizers are given
            their parameters when they are made; these are not.)

        Raises
        ------
        ArgumentError
            If options differ or entries are missing.
        ShapeError, DataError, DtypeError
            If an array does not fit the model. After any error nothing has changed.
        """
        missing = [key for key in ("steps", "options", "arrays") if key not in state_dict]
        if missing:
            raise ArgumentError(f"state_dict lacks {missing}; it must come from an optimizer")
        saved = dict(state_dict["options"])
        lr = learning_rate(saved.pop("lr", None))
        mine = {key: value for key, value in self._options.items() if key != "lr"}
        if saved != mine:
            raise ArgumentError(
                f"state_dict was saved with the options {saved}, but this {type(self).__name__} "
                f"has {mine}"
            )
        arrays = {
            name: _arrays.flat(values, model.dtype, model.num_parameters, name)
            for name, values in state_dict["arrays"].items()
        }
        steps = _checks.integer("steps", state_dict["steps"], 0)
        self._core.set_state(model._core, steps, arrays)
        self._core.set_lr(lr)

    def __repr__(self) -> str:
        options = {**self._options, "lr": self.lr}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer belongs to a model and cannot be pickled or copied alone; "
            "save optimizer.state_dict()"
        )


def learning_rate(value: Any) -> float:
    """`value` as a learning rate: a finite number from 0 on, or `ArgumentError`."""
    return _checks.real("lr", value, 0)


class AdamBase(Optimizer):
    """Arguments that `Adam` and `AdamW` have in common."""

    def __init__(
        self, kind: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ArgumentError(f"betas must be two numbers in [0, 1); got {betas!r}") from None
        options: dict[str, float | bool] = {
            "lr": learning_rate(lr),
            "beta1": _checks.real("betas[0]", beta1, 0, 1),
            "beta2": _checks.real("betas[1]", beta2, 0, 1),
            "eps": _checks.real("eps", eps, 0),
            "weight_decay": _checks.real("weight_decay", weight_decay, 0),
        }
        super().__init__(kind, options)

    def __repr__(self) -> str:
        o = self._options
        return (
            f"{type(self).__name__}(lr={self.lr!r}, betas=({o['beta1']!r}, {o['beta2']!r}), "
            f"eps={o['eps']!r}, weight_decay={o['weight_decay']!r})"
        )
