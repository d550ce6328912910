"""Constructing a model and reading its properties."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from thalweg import _arrays, _checks, _core, _habits
from thalweg._arrays import Array, Samples
from thalweg._habits import Guided
from thalweg.errors import ArgumentError
from thalweg.nn import _layers, _names
from thalweg.nn._layers import Layer

if TYPE_CHECKING:
    from thalweg.nn._sequential import Sequential

#: How users name the dtype of a model.
Dtype: TypeAlias = Literal["float32", "float64"] | type[np.floating[Any]] | np.dtype[Any]

_TRAINER = "tw.Trainer(model, loss=..., optimizer=...)"
_BY_NAME = "all are in flat_parameters, and by name in state_dict(), in the order of the layers"
_OF_LAYER = (
    'that of layer 0 is model.state_dict()["0.{0}"], a copy; model.load_state_dict('
    'model.state_dict() | {{"0.{0}": values}}) sets it'
)
_PART = "model[:2](x) returns the output of the first two layers"
_FIXED = "the layers of a model are fixed: make another, nn.Sequential(*model.layers, ...)"
_FROZEN = 'optimizer.add_group("0.*", frozen=True) leaves parameters as they are'
_OWN = (
    "models are computed in the core, layer by layer; prepare data before you pass them to a "
    "model, or write a training loop that calls model.forward and model.backward"
)
#: The two ways in which a model computes, where others have a flag.
MODES = "model(x) evaluates; model.forward(x, training=True) is the forward pass of training"

#: Attributes of other libraries' models.
_ELSEWHERE = {
    **dict.fromkeys(("eval", "train", "training"), MODES),
    **dict.fromkeys(("append", "add", "insert", "extend", "pop", "add_module"), _FIXED),
    **{name: _OF_LAYER.format(name) for name in ("weight", "bias")},
    **dict.fromkeys(("weights", "get_weights", "coefs_", "intercepts_"), _BY_NAME),
    **dict.fromkeys(("fit", "partial_fit", "compile"), f"{_TRAINER} trains it"),
    **dict.fromkeys(("evaluate", "score"), f"{_TRAINER}.evaluate(x, y) does that"),
    **dict.fromkeys(("children", "modules", "named_children"), "they are in model.layers"),
    **dict.fromkeys(("cpu", "cuda"), "all is computed on the CPU"),
    **dict.fromkeys(("double", "float", "type"), "model.astype makes a copy of another dtype"),
    **dict.fromkeys(
        ("half", "bfloat16"),
        'models have the dtype float32 or float64; tw.Trainer(..., precision="bfloat16") '
        "multiplies matrices in lower precision",
    ),
    **dict.fromkeys(("to_onnx", "export"), "tw.onnx.export(model, path) does that"),
    "to_torch": "tw.torch.to_torch(model) does that",
    "from_torch": "tw.torch.from_torch(module) does that",
    "parameters": f"{_BY_NAME}; make the optimizer without them, optim.Adam(lr=...), and pass it "
    f"to {_TRAINER}, or in a hand-written loop call optimizer.step(model)",
    "named_parameters": _BY_NAME,
    "to": 'all is computed on the CPU; model.astype("float64") makes a copy of another dtype',
    "predict": "call the model: model(x)",
    "predict_proba": "nn.CrossEntropyLoss().probabilities(model(x)) does that",
    "set_weights": "load_state_dict sets them by name, flat_parameters all at once",
    "count_params": "it is num_parameters",
    "input_shape": "it is in_features",
    **dict.fromkeys(
        ("grads", "gradients"),
        "they are in flat_gradients, and model.unflatten(model.flat_gradients) has them by name",
    ),
    **dict.fromkeys(("per_sample_gradients", "grad_sample"), _habits.PER_SAMPLE),
    **dict.fromkeys(
        ("tie_weights", "share_weights"),
        "each layer has parameters of its own; in trainer.gradient_hook, a function that adds the "
        "gradients of two, by model.unflatten(gradient), keeps them equal",
    ),
    **dict.fromkeys(("save_weights", "load_weights"), "model.save(path) and Sequential.load(path)"),
    **dict.fromkeys(("jvp", "hvp"), "tw.curvature has it"),
    **dict.fromkeys(("freeze", "trainable"), _FROZEN),
    "requires_grad_": _FROZEN,
    **dict.fromkeys(
        ("reset_parameters", "reset", "reset_states", "reinitialize", "init_weights"),
        "model.follow(nn.Sequential(*model.layers, dtype=model.dtype, seed=...)) makes it as new; "
        "the optimizer keeps its averages",
    ),
    "learn_one": f"{_TRAINER}.step([x], [y]) trains on one sample",
    "predict_one": "call the model with one row: model([x])[0]",
    **dict.fromkeys(
        (
            "soft_update",
            "update_target",
            "polyak",
            "polyak_update",
            "lerp",
            "lerp_",
            "copy_",
            "copy_from",
            "hard_update",
            "assign",
        ),
        "target.follow(model, tau) moves its parameters part of the way to those of model, and "
        "target.follow(model) copies them",
    ),
    **dict.fromkeys(
        ("activations", "get_layer", "register_forward_hook", "register_forward_pre_hook"),
        _PART,
    ),
    **dict.fromkeys(
        ("register_full_backward_hook", "register_backward_hook"),
        "trainer.gradient_hook(function) changes the gradients of a step",
    ),
    "clone": "copy.deepcopy(model) copies it",
    "copy": "copy.deepcopy(model) copies it",
    "grad": "gradients are in flat_gradients",
}

#: Arguments of other libraries' models.
_OF_MODELS = {
    **dict.fromkeys(("random_state", "key", "rng"), "it is seed"),
    "layers": "layers come one by one: nn.Sequential(*layers)",
    "name": "leave it out: a subclass of nn.Sequential can have a name",
    "device": "all is computed on the CPU",
}


class SequentialBase(Guided):
    """Base of `thalweg.nn.Sequential`, which documents the arguments."""

    _uncalled: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("forward", "__call__", "call", "backward"), _OWN
    )
    _elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE

    @_habits.takes("nn.Sequential", _OF_MODELS)
    def __init__(self, *layers: Layer, dtype: Dtype = "float32", seed: int = 0) -> None:
        for index, layer in enumerate(layers):
            _layers.check_layer("", index, layer)
        self._layers = layers
        self._dtype = np.dtype(dtype_name(dtype))
        self._seed = _checks.integer("seed", seed, 0, 2**64 - 1)
        _layers.check_tables(layers, self._dtype)
        #: The first layer, if it converts inputs of other shapes to rows.
        self._shaper: _layers.Flatten | _layers.Embedding | None = None
        if layers and isinstance(layers[0], (_layers.Flatten, _layers.Embedding)):
            self._shaper = layers[0]
        self._in_shape: tuple[int, ...] | None = None  # if so, that of a sample of the last forward
        self._renamed = _names.renamed(layers)
        self._core = _core.Model([x._spec() for x in layers], self._dtype.name, self._seed)
        self._predict = self._core.predict
        self._steps: dict[int, Any] = {}  # see thalweg._trainer._steps
        #: See `_unmoved`; with the process: a forked one has none of its parent's threads.
        self._moved_from: tuple[int, Array] | None = None
        _layers.check_sines(layers)
        if self._dtype == np.float32:
            _layers.check_offsets(layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The descriptions of the layers, in order; a `Standardize` has its present numbers."""
        if not (blocks := self._core.average_blocks()):
            return self._layers
        return _layers.with_numbers(self._layers, _names.split(self._core.averages(), blocks))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the parameters and of the arithmetic: float32 or float64."""
        return self._dtype

    @property
    def seed(self) -> int:
        """The seed this model was made with."""
        return self._seed

    @property
    def in_features(self) -> int:
        """Width of a row of the input."""
        return self._core.in_features

    @property
    def out_features(self) -> int:
        """Width of a row of the output."""
        return self._core.out_features

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers."""
        return self._core.num_parameters

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        lines = "".join(f"  ({i}): {layer!r}\n" for i, layer in enumerate(self.layers))
        return f"Sequential(\n{lines}  dtype={self._dtype.name}, seed={self._seed}\n)"

    @property
    def _unmoved(self) -> Array | None:
        """The parameters from which the step under way tries others; None if it tries none."""
        moved = self._moved_from
        return moved[1] if moved is not None and moved[0] == os.getpid() else None

    @_unmoved.setter
    def _unmoved(self, theta: Array | None) -> None:
        self._moved_from = None if theta is None else (os.getpid(), theta)

    def _blocks(self) -> _names.Blocks:
        """Return the names and shapes of the parameters, in the order of `flat_parameters`."""
        if not self._renamed:
            return self._core.blocks()
        return [(self._renamed.get(name, name), shape) for name, shape in self._core.blocks()]

    def _samples(self, x: Any, name: str) -> Samples:
        """Prepare samples for the core: rows, converted by the first layer if needed."""
        return _arrays.samples(self._rows(x, name), self._dtype, name)

    def _matrix(self, x: Any, name: str) -> Array:
        """Convert samples to rows of this model's dtype, for callees that do not convert them."""
        return _arrays.matrix(self._rows(x, name), self._dtype, name)

    def _rows(self, x: Any, name: str) -> Any:
        if self._shaper is None:
            return x
        return self._shaper._as_rows(_arrays.as_numeric(x, name), name)


#: The attributes that `Sequential` sets.
MINE = (
    "_layers", "_dtype", "_seed", "_shaper", "_in_shape", "_renamed", "_core", "_predict", "_steps",
    "_moved_from",
)  # fmt: skip


def plain(layers: Iterable[Layer], dtype: np.dtype[Any] | str, seed: int) -> "Sequential":
    """Make a plain `Sequential`, even from a subclass of the user's."""
    from thalweg.nn._sequential import Sequential  # which is built on this module

    return Sequential(*layers, dtype=np.dtype(dtype), seed=seed)


def dtype_name(dtype: Any) -> str:
    """Name a dtype given as a name, a NumPy type or a NumPy dtype."""
    name = dtype
    if dtype is not None and not isinstance(dtype, str):  # None is float64 to NumPy
        with contextlib.suppress(TypeError):  # not a dtype: reported below
            name = np.dtype(dtype).name
    if isinstance(name, str) and name in ("float16", "bfloat16", "half"):
        raise ArgumentError(
            f'dtype must be one of "float32", "float64"; got {dtype!r}: tw.Trainer(..., '
            'precision="bfloat16") multiplies matrices in lower precision, and samples may be '
            "float16"
        )
    return _checks.one_of("dtype", name, ("float32", "float64"))
