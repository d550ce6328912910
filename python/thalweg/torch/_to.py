"""Conversion of layers to modules."""

import dataclasses
from typing import Any

from thalweg import nn
from thalweg._parts import checked
from thalweg.errors import UnsupportedError
from thalweg.nn._layers import Block, kind_of
from thalweg.torch import _modules
from thalweg.torch._modules import torch

#: Where PyTorch's `Softplus` starts to return its input. Its default, 20, suits float32; in float64
#: the difference is within rounding only beyond this value.
_SOFTPLUS_THRESHOLD = 40


def module(model: nn.Sequential) -> torch.nn.Sequential:
    """Make a PyTorch model; see `thalweg.torch.to_torch`."""
    state = checked(model)._finite_state_dict()
    # PyTorch draws parameters that are replaced below; the user's random state must not change.
    with torch.random.fork_rng(devices=[]):
        modules = [_module(layer, str(index)) for index, layer in enumerate(model.layers)]
    twin: torch.nn.Sequential = torch.nn.Sequential(*modules)
    twin = twin.to(getattr(torch, model.dtype.name)).eval()
    counts = [name for name in twin.state_dict() if name.endswith("num_batches_tracked")]
    tensors = {name: torch.from_numpy(values) for name, values in state.items()}
    twin.load_state_dict(tensors | dict.fromkeys(counts, torch.tensor(0)))
    return twin


def _module(layer: nn.Layer, place: str) -> Any:
    """Make the module of a layer, whose parameters are loaded later."""
    ours = kind_of(layer)
    name = ours.__name__
    kind = getattr(_modules, name, None) or getattr(torch.nn, name, None)
    if isinstance(layer, Block):
        return getattr(_modules, name)(
            *(_module(it, f"{place}.{index}") for index, it in enumerate(layer.layers))
        )
    if kind is None:
        raise UnsupportedError(
            f"layer {place} is {layer!r}, but PyTorch {torch.__version__} has no {name}"
        )
    # Layers' arguments have PyTorch's names.
    options = {f.name: getattr(layer, f.name) for f in made_with(ours)}
    if isinstance(layer, nn.Softplus):
        options["threshold"] = _SOFTPLUS_THRESHOLD
    return kind(**options)


def made_with(kind: type[nn.Layer]) -> list[dataclasses.Field[Any]]:
    """Return the fields that a layer is made with, except the initialization."""
    return [field for field in dataclasses.fields(kind) if field.name != "init"]
