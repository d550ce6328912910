"""Arguments that users of other libraries pass to optimizers, and how to answer."""

from collections.abc import Mapping
from typing import Any

from thalweg import _habits
from thalweg.errors import ArgumentError
from thalweg.optim.schedules import ReduceLROnPlateau, Schedule


def refuse_parameters(
    kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], optimizer: type
) -> None:
    """Raise if an optimizer is given parameters or a model, as in PyTorch."""
    rate = kwargs.get("lr", args[0] if args else None)
    if isinstance(rate, (Schedule, ReduceLROnPlateau)):
        raise ArgumentError(
            f"lr must be a number, the rate on which a schedule is based; got {rate!r}. Pass the "
            "schedule to tw.Trainer(model, loss=..., optimizer=..., schedule=...)"
        )
    rest = dict(kwargs)
    theirs = [name for name in ("params", "parameters", "model") if name in kwargs]
    if theirs:
        given = rest.pop(theirs[0])
    elif args and _habits.is_parameters(args[0]) and not isinstance(args[0], optimizer):
        given, args = args[0], args[1:]
    else:
        return
    options = ", ".join([repr(x) for x in args] + [f"{name}={x!r}" for name, x in rest.items()])
    if kind.__name__ == "SAM":
        options = "optim.SGD(lr=0.1), rho=0.05"
    raise ArgumentError(
        f"{kind.__name__} takes no parameters or model; got {_habits.named(given)}. Make "
        f"optimizer = optim.{kind.__name__}({options}), and pass model and optimizer to "
        "tw.Trainer(model, loss=..., optimizer=optimizer), or in a hand-written loop call "
        "optimizer.step(model); optimizer.add_group(pattern, ...) treats some parameters "
        "differently"
    )


#: Other libraries' arguments of optimizers, and what does the same here.
_CLIPPING = "tw.Trainer(..., {}=...) clips gradients"
_NOT_NEEDED = "there is nothing to choose: every step is a fused pass of the compiled core"
THEIRS = {
    **dict.fromkeys(("learning_rate", "learning_rate_init", "step_size"), "it is lr"),
    **dict.fromkeys(("beta_1", "beta_2", "b1", "b2"), "they are betas=(beta1, beta2)"),
    **dict.fromkeys(
        ("fused", "foreach", "capturable", "differentiable", "jit_compile"), _NOT_NEEDED
    ),
    **dict.fromkeys(("clipnorm", "global_clipnorm"), _CLIPPING.format("clip_grad_norm")),
    "clipvalue": _CLIPPING.format("clip_grad_value"),
    "epsilon": "it is eps",
    "decay": "it is weight_decay; learning-rate schedules are in optim.schedules",
    "maximize": "the loss is always minimized: use the negative of what should be large",
    "use_ema": "tw.Trainer(..., average=optim.EMA()) averages parameters",
    "gradient_accumulation_steps": "it is tw.Trainer(..., accumulate_grad_batches=...)",
}
