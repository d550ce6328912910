"""Conversion of modules to layers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from thalweg import _checks, _habits, nn
from thalweg._warn import warn
from thalweg.errors import ArgumentError, DataError, DtypeError, UnsupportedError
from thalweg.torch import _modules
from thalweg.torch._modules import torch
from thalweg.torch._to import made_with

#: Options that layers here support with one value only, by their names in PyTorch.
_ONLY: Mapping[type[nn.Layer], Mapping[str, Any]] = {
    nn.BatchNorm1d: {"track_running_stats": True},
    nn.Embedding: {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False},
    nn.Flatten: {"start_dim": 1, "end_dim": -1},
}


def model(module: torch.nn.Module, seed: int) -> nn.Sequential:
    """Make a model; see `thalweg.torch.from_torch`."""
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(
            "module must be a torch.nn.Module, e.g. a torch.nn.Sequential; got "
            f"{_checks.short(module)}{_of_arrays(module)}"
        )
    tensors: dict[str, torch.Tensor] = {}
    whole = type(module) is torch.nn.Sequential
    try:
        layers = _layers(_parts("", module) if whole else [("", module)], "", tensors)
        _refuse_own(module)
        _refuse_sharing(module)
    except RecursionError:
        raise UnsupportedError("module contains itself, or is nested too deeply") from None
    made = nn.Sequential(*layers, dtype=_dtype(module), seed=seed)
    known = made.state_dict()
    missing = [name for name in known if name not in tensors]
    unexpected = [
        name for name in tensors if name not in known and not name.endswith(".num_batches_tracked")
    ]
    if missing or unexpected:
        raise UnsupportedError(
            "parameters or buffers were added to modules, or removed from them: missing "
            f"{missing or 'none'}, unexpected {unexpected or 'none'} (layers are numbered from 0)"
        )
    made.load_state_dict({name: it.detach().cpu().numpy() for name, it in tensors.items()})
    _warn_of_frozen(tensors)
    return made


def _of_arrays(module: Any) -> str:
    """Say what to do with a state dict, which does not tell the layers."""
    if not isinstance(module, Mapping):
        return ""
    return ": make the model, nn.Sequential(...), and call model.load_state_dict(it)"


def _warn_of_frozen(tensors: Mapping[str, torch.Tensor]) -> None:
    """Warn that parameters which do not train in PyTorch do here."""
    trains: dict[str, dict[str, bool]] = {}  # the parameters of each layer
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.nn.Parameter):
            trains.setdefault(name.rpartition(".")[0], {})[name] = tensor.requires_grad
    patterns: list[str] = []
    for layer, parameters in trains.items():
        if not any(parameters.values()):
            patterns.append(f"{layer}.*")
        else:
            patterns += [name for name, it in parameters.items() if not it]
    if patterns:
        warn(
            f"the model trains {', '.join(patterns)}, which requires_grad=False freezes in the "
            "module: what trains is a matter of the optimizer here, "
            f'optimizer.add_group("{patterns[0]}", frozen=True)'
            f"{' for each of them' if patterns[1:] else ''}"
        )


def _parts(place: str, module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a module in order, also those of nested ``Sequential`` modules."""
    for name, part in module._modules.items():  # children() would leave out duplicates
        inside = f"{place}.{name}" if place else name
        if type(part) is torch.nn.Sequential:
            yield from _parts(inside, part)
        else:
            yield inside, part


def _layers(
    modules: Iterable[tuple[str, Any]], prefix: str, tensors: dict[str, torch.Tensor]
) -> list[nn.Layer]:
    """Make the layers of modules, and collect their tensors under the layers' names."""
    made: list[nn.Layer] = []
    for place, module in modules:
        here = f"{prefix}{len(made)}."
        if type(module) in (_modules.Residual, _modules.Concatenate):
            block = getattr(nn, type(module).__name__)
            made.append(block(*_layers(_parts(place, module), here, tensors)))
            continue
        made.append(_layer(place, module))
        own = module.state_dict(keep_vars=True)  # parameters, which know whether they are frozen
        tensors.update({here + name: tensor for name, tensor in own.items()})
    return made


def _layer(place: str, module: Any) -> nn.Layer:
    """Make the layer for a module, or raise."""
    name, where = type(module).__name__, _where(place, module)
    kind = vars(nn).get(name)
    theirs = getattr(_modules, name, None) or getattr(torch.nn, name, None)
    # A subclass of a PyTorch module may compute anything.
    if type(module) is not theirs or not (isinstance(kind, type) and issubclass(kind, nn.Layer)):
        layers = [it for it in vars(nn).values() if isinstance(it, type) and it is not nn.Layer]
        there = {it.__name__ for it in layers if issubclass(it, nn.Layer)} & {*dir(torch.nn)}
        raise UnsupportedError(
            f"{where} is not one of the layers of thalweg{_habits.said_of(name, 'nn')}; a "
            f"torch.nn.Sequential may have {', '.join(sorted(there))}, and blocks by "
            "tw.torch.residual or tw.torch.concatenate. Of a class of your own, pass the modules "
            "that form a chain as a torch.nn.Sequential"
        )
    for option, needed in _ONLY.get(kind, {}).items():
        if (value := getattr(module, option)) != needed:
            raise UnsupportedError(
                f"{where} has {option}={value!r}; only {option}={needed!r} is supported"
            )
    if kind is nn.BatchNorm1d and module.affine and module.bias is None:
        raise UnsupportedError(f"{where} has a weight but no bias; it must have both or none")
    if kind is nn.Softplus and module.threshold < 20:
        raise UnsupportedError(
            f"{where} has threshold={module.threshold:g}, above which it returns its input, but "
            "thalweg's is exact; threshold must be >= 20, where the two differ only by rounding"
        )
    options = {f.name: getattr(module, f.name) for f in made_with(kind)}
    if "bias" in options:  # a tensor or None; always None for a norm without a scale
        bare = not options.get("elementwise_affine", True)
        options["bias"] = bare or options["bias"] is not None
    try:
        return kind(**options)
    except ArgumentError as error:
        raise ArgumentError(f"{where}: {error}") from None


def _where(place: str, module: torch.nn.Module) -> str:
    """Name a module and its position, for errors."""
    kind = type(module).__name__
    return f"module {place} ({kind})" if place else f"the module ({kind})"


def _refuse_own(module: torch.nn.Module) -> None:
    """Raise if a module computes something other than its class does, or has no data."""
    for place, part in module.named_modules():
        if "forward" in vars(part):
            raise UnsupportedError(
                f"{_where(place, part)} has a forward that replaces the one of its class, which is "
                "not supported: remove it with del module.forward"
            )
        if part._forward_hooks or part._forward_pre_hooks:
            raise UnsupportedError(
                f"{_where(place, part)} has forward hooks, which are not supported: remove them "
                "(torch.nn.utils.weight_norm, for instance, adds one)"
            )
        tensors = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        if any(it.layout is not torch.strided for it in tensors):
            raise UnsupportedError(
                f"{_where(place, part)} has sparse parameters, which are not supported: make them "
                "dense, module.weight = torch.nn.Parameter(module.weight.to_dense())"
            )
        if any(it.is_meta for it in tensors):
            raise DataError(
                f"{_where(place, part)} is on the meta device, where parameters have no values: "
                "make it on the CPU, or load them with load_state_dict(..., assign=True)"
            )


def _refuse_sharing(module: torch.nn.Module) -> None:
    """Raise if a parameter or a running average is shared."""
    seen: dict[int, str] = {}
    for tensors in (module.named_parameters, module.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            if id(tensor) in seen:
                raise UnsupportedError(
                    f"{name} is the same tensor as {seen[id(tensor)]}; sharing is not supported, "
                    "since each layer here has parameters of its own; a function in "
                    "trainer.gradient_hook can keep two equal"
                )
            seen[id(tensor)] = name


def _dtype(module: torch.nn.Module) -> np.dtype[Any]:
    """Return the dtype of a module's parameters and running averages, or raise."""
    tensors = module.state_dict().values()
    names = {str(it.dtype).removeprefix("torch.") for it in tensors if it.is_floating_point()}
    if len(names) > 1 or not names <= {"float32", "float64"}:
        raise DtypeError(
            "parameters must be all float32 or all float64; got "
            f"{', '.join(sorted(names))}. Use module.float() or module.double()"
        )
    return np.dtype(names.pop() if names else "float32")
