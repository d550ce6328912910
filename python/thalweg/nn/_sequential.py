"""The model: layers one after another over one flat array of parameters."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from thalweg import _arrays, _checks, _core, _safetensors, _spec
from thalweg._arrays import Array, Samples
from thalweg._habits import Guided
from thalweg.errors import ArgumentError, DataError, ShapeError, UnsupportedError
from thalweg.nn import _layers, _names
from thalweg.nn._layers import Layer

#: Version of what `Sequential.__getstate__` gives, so that later versions can read old pickles.
_STATE_VERSION = 1

_TRAINER = "tw.Trainer(model, loss=..., optimizer=...)"
_BY_NAME = "all are in flat_parameters, and by name in state_dict(), in the order of the layers"
_FIXED = "a model keeps its layers: make another, nn.Sequential(*model.layers, ...)"
_MODES = "model(x) evaluates; model.forward(x, training=True) is the pass of training"

#: What models of other libraries have.
_ELSEWHERE = {
    **dict.fromkeys(("eval", "train", "training"), _MODES),
    **dict.fromkeys(("append", "add", "insert", "extend", "pop", "add_module"), _FIXED),
    **dict.fromkeys(("weights", "get_weights", "coefs_", "intercepts_"), _BY_NAME),
    **dict.fromkeys(("fit", "partial_fit", "compile"), f"{_TRAINER} trains it"),
    **dict.fromkeys(("evaluate", "score"), f"{_TRAINER}.evaluate(x, y) does that"),
    **dict.fromkeys(("children", "modules", "named_children"), "they are in model.layers"),
    **dict.fromkeys(("cpu", "cuda"), "all is computed on the CPU"),
    **dict.fromkeys(("double", "float", "type"), "model.astype makes a copy of another dtype"),
    "parameters": f"{_BY_NAME}; an optimizer is made without, optim.Adam(lr=...), and given the "
    f"model by {_TRAINER}, or in a loop by hand by optimizer.step(model)",
    "named_parameters": _BY_NAME,
    "requires_grad_": 'optimizer.add_group("0.*", frozen=True) leaves parameters as they are',
    "to": 'all is computed on the CPU; model.astype("float64") makes a copy of another dtype',
    "predict": "call the model: model(x)",
    "predict_proba": "nn.CrossEntropyLoss().probabilities(model(x)) does that",
    "set_weights": "load_state_dict sets them by name, flat_parameters all at once",
    "count_params": "it is num_parameters",
    "input_shape": "it is in_features",
    "clone": "copy.deepcopy(model) copies it",
    "copy": "copy.deepcopy(model) copies it",
    "grad": "gradients are in flat_gradients",
}


class Sequential(Guided):
    """Layers applied one after another.

    Parameters
    ----------
    *layers : Layer
        The layers in order, e.g. ``nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)``. At least
        one is a `Linear`: it says how wide the input is.
    dtype : {"float32", "float64"}, keyword only
        Precision of the parameters and of all arithmetic. Inputs of another dtype are converted.
    seed : int, keyword only, default 0
        Seed of the initial parameters and of the shuffling in `thalweg.Trainer.fit`, from 0 to
        2**64 - 1. A seed gives the same model on every machine.

    Raises
    ------
    ArgumentError
        If no layer is a `Linear`, something is not a layer, or an option is unknown.
    ShapeError
        If a layer does not fit the one before it; the message names both.

    Notes
    -----
    All parameters live in one array, in the order of `state_dict`. The layers are only
    descriptions, so one description may be used several times; every use has parameters of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), seed=1)
    >>> model(np.zeros((5, 2))).shape
    (5, 1)
    >>> model.num_parameters
    33
    """

    _elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE

    def __init__(self, *layers: Layer, dtype: str = "float32", seed: int = 0) -> None:
        for index, layer in enumerate(layers):
            _layers.check_layer("", index, layer)
        self._layers = layers
        self._dtype = np.dtype(_dtype_name(dtype))
        self._seed = _checks.integer("seed", seed, 0, 2**64 - 1)
        _layers.check_codes(layers, self._dtype)
        #: The first layer, if it makes rows of what need not be such.
        self._shaper: _layers.Flatten | _layers.Embedding | None = None
        if layers and isinstance(layers[0], (_layers.Flatten, _layers.Embedding)):
            self._shaper = layers[0]
        self._in_shape: tuple[int, ...] | None = None  # of a sample of the last forward, if so
        self._renamed = _names.renamed(layers)
        self._core = _core.Model([x._spec() for x in layers], self._dtype.name, self._seed)
        self._predict = self._core.predict

    # --- what it is -----------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers' descriptions, in order."""
        return self._layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the parameters and of the arithmetic: float32 or float64."""
        return self._dtype

    @property
    def seed(self) -> int:
        """The seed that this model was made with."""
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
        """How many numbers there are to train."""
        return self._core.num_parameters

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Layer:
        return self._layers[index]

    def __repr__(self) -> str:
        lines = "".join(f"  ({i}): {layer!r}\n" for i, layer in enumerate(self._layers))
        return f"Sequential(\n{lines}  dtype={self._dtype.name}, seed={self._seed}\n)"

    def summary(self) -> str:
        """Make a table of the layers with their shapes and numbers of parameters.

        Returns
        -------
        str
            One line for each layer, and the total. At a prompt and in a notebook it is shown as it
            is, without quotes.

        Examples
        --------
        >>> from thalweg import nn
        >>> nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).summary()
        layer                                                output  parameters
        0  Linear(in_features=2, out_features=8, bias=True)  (n, 8)          24
        1  Tanh()                                            (n, 8)           0
        2  Linear(in_features=8, out_features=1, bias=True)  (n, 1)           9
        total: 33 parameters, float32
        """
        sizes = {name: int(np.prod(shape)) for name, shape in self._blocks()}
        rows = [("layer", "output", "parameters")]
        rows += _summary(self._layers, "", self.in_features, sizes)
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        table = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows
        ]
        total = f"total: {self.num_parameters:,} parameters, {self._dtype.name}"
        return _Table("\n".join([*table, total]))

    # --- computing ------------------------------------------------------------------------------

    def __call__(self, x: Any) -> Array:
        """Compute the output for the rows of `x`, for use and not for training.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Any number of rows from 1. Booleans, integers and floats of any width and memory order
            are converted to the model's dtype; an array that has that dtype and is C-contiguous is
            read in place.

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array; the message says what it is.
        """
        # The usual case takes no detour: this call is made thousands of times a second.
        try:
            y = self._predict(x)
        except ShapeError:
            self._samples(x, "x")  # the first layer may know better what is wrong
            raise
        if y is None:
            y = self._predict(self._samples(x, "x"))
            assert y is not None  # it is ready now
        return y

    def forward(self, x: Any, training: bool = True) -> Array:
        """Compute the output for the rows of `x` as in training; remember what `backward` needs.

        `BatchNorm1d` takes the statistics of these rows and `Dropout` drops, other elements in each
        call.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As for a call of the model.
        training : bool, default True
            With False this is the same as calling the model: evaluation, and nothing is
            remembered.

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array.
        """
        if training is not True and not _checks.flag("training", training):
            return self(x)
        y = self._core.forward(self._samples(x, "x"))
        if self._shaper is not None:
            self._in_shape = np.shape(x)[1:]
        return y

    def _samples(self, x: Any, name: str) -> Samples:
        """Make samples ready for the core: rows, also where a layer has to make them first."""
        return _arrays.samples(self._rows(x, name), self._dtype, name)

    def _matrix(self, x: Any, name: str) -> Array:
        """Make samples rows of this model's dtype, for what does not convert them by itself."""
        return _arrays.matrix(self._rows(x, name), self._dtype, name)

    def _rows(self, x: Any, name: str) -> Any:
        if self._shaper is None:
            return x
        return self._shaper._as_rows(_arrays.as_numeric(x, name), name)

    def backward(self, grad_output: Any) -> Array:
        """Carry the gradient of a loss back through the last `forward`, by the chain rule.

        Parameters
        ----------
        grad_output : array_like, shape (n, out_features)
            Gradient of the loss with respect to what `forward` returned.

        Returns
        -------
        ndarray, shape (n, in_features), of the model's dtype
            Gradient of the loss with respect to the `x` of that `forward`.

        Raises
        ------
        ThalwegError
            If there was no `forward`, or the shape is not that of its output.

        Notes
        -----
        Gradients of the parameters are *added* to `flat_gradients`, as in PyTorch; `zero_grad`
        clears them.
        """
        grad = self._core.backward(_arrays.matrix(grad_output, self._dtype, "grad_output"))
        return grad if self._in_shape is None else grad.reshape(-1, *self._in_shape)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self._core.zero_grad()

    def recalibrate(self, x: Any, *, batch_size: int = 256) -> None:
        """Set the running averages of all `BatchNorm1d` to those of the present parameters.

        Needed for parameters that no training pass has used, such as averaged ones
        (`thalweg.Trainer.average_model`): each running average becomes the mean, over the batches,
        of the batches' statistics. PyTorch's ``swa_utils.update_bn``. A model without `BatchNorm1d`
        is left as it is.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Samples as in training, n at least 2.
        batch_size : int, keyword only, default 256
            Rows of a batch, at least 2; usually that of the training. A single row that is left
            over is passed over.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array. After any error the model is unchanged.
        ArgumentError
            If the batch size is out of range.
        """
        batch_size = _checks.integer("batch_size", batch_size, 1)
        self._core.recalibrate(self._samples(x, "x"), batch_size)

    # --- parameters -----------------------------------------------------------------------------

    @property
    def flat_parameters(self) -> Array:
        """All parameters, shape (num_parameters,), in the order of `state_dict`: a copy.

        Assigning sets them, so ``model.flat_parameters -= 0.1 * model.flat_gradients`` is a step of
        gradient descent. Values must be finite, else nothing is set.
        """
        return self._core.parameters()

    @flat_parameters.setter
    def flat_parameters(self, values: Any) -> None:
        self._core.set_parameters(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_parameters")
        )

    @property
    def flat_gradients(self) -> Array:
        """Gradients of all parameters, in the same order: a copy.

        They are those of `backward`: a step of `thalweg.Trainer` uses its own up and never writes
        them here. Assigning sets them, e.g. to clip them between `backward` and an optimizer's
        `step`.
        """
        return self._core.gradients()

    @flat_gradients.setter
    def flat_gradients(self, values: Any) -> None:
        self._core.set_gradients(
            _arrays.flat(values, self._dtype, self.num_parameters, "flat_gradients")
        )

    def state_dict(self) -> dict[str, Array]:
        """Give the parameters, and the running averages of normalizations, by name.

        Returns
        -------
        dict of str to ndarray
            Copies; ``"0.weight"`` has shape (out_features, in_features) and ``"0.bias"``
            (out_features,), where 0 is the layer's position. A `BatchNorm1d` has ``"1.weight"``,
            ``"1.bias"``, ``"1.running_mean"`` and ``"1.running_var"``, all (num_features,). Layer 0
            of a `Residual` at position 2 has ``"2.0.weight"``.
        """
        parameters = _names.cut(self._blocks(), self._core.parameters())
        averages = _names.cut(self._core.average_blocks(), self._core.averages())
        # In the order of the layers, a layer's parameters before its averages.
        names = sorted(
            [*parameters, *averages], key=lambda name: [int(i) for i in name.split(".")[:-1]]
        )
        return {name: (parameters | averages)[name] for name in names}

    def _blocks(self) -> _names.Blocks:
        """Names and shapes of the parameters, in the order of `flat_parameters`."""
        if not self._renamed:
            return self._core.blocks()
        return [(self._renamed.get(name, name), shape) for name, shape in self._core.blocks()]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Set everything by name; the names and shapes must be exactly those of `state_dict`.

        Only ``num_batches_tracked``, which PyTorch lists too, is passed over: nothing needs it.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Values are converted to the model's dtype.

        Raises
        ------
        ArgumentError
            If names are missing or unexpected; all of them are listed.
        ShapeError, DataError, DtypeError
            If an array has another shape, or is not of finite real numbers. After any error the
            model is unchanged.
        """
        blocks = self._blocks()
        average_blocks = self._core.average_blocks()
        names = [name for name, _ in blocks + average_blocks]
        missing = [name for name in names if name not in state_dict]
        unexpected = [
            name
            for name in state_dict
            if name not in names and not str(name).endswith(".num_batches_tracked")
        ]
        if missing or unexpected:
            raise ArgumentError(
                "state_dict does not belong to this model: "
                f"missing {missing or 'none'}, unexpected {unexpected or 'none'}"
            )
        # All is checked before anything is set; a negative variance is found by the core.
        parameters = self._flat(blocks, state_dict)
        self._core.set_averages(self._flat(average_blocks, state_dict))
        self._core.set_parameters(parameters)

    def _flat(self, blocks: list[tuple[str, tuple[int, ...]]], values: Mapping[str, Any]) -> Array:
        """Put named arrays into one, checked and converted."""
        parts = [np.empty(0, self._dtype)]
        for name, shape in blocks:
            array = _arrays.as_numeric(values[name], name)
            if array.shape != shape:
                raise ShapeError(f"{name} has shape {array.shape}; this model's is {shape}")
            parts.append(_arrays.finite(_arrays.as_dtype(array, self._dtype, name), name).ravel())
        return np.concatenate(parts)

    # --- files ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file: layers, parameters, running averages.

        Parameters
        ----------
        path : str or path-like
            Usually ``"….safetensors"``: that is its format, whatever the name. A file that is there
            is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        UnsupportedError
            If a layer is not one of thalweg's.

        Notes
        -----
        The arrays in it are those of `state_dict`, so that other libraries can read them; in
        PyTorch ``net.load_state_dict(safetensors.torch.load_file(path))``. Gradients are left out.
        """
        import json

        _safetensors.save(path, self.state_dict(), {"thalweg": json.dumps(self._description())})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Sequential":
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        Sequential
            The same to the last bit, with gradients of zero.

        Raises
        ------
        OSError
            If the file cannot be read.
        DataError
            If it is not a whole safetensors file, or holds no model of thalweg's.
        UnsupportedError
            If a later version of thalweg wrote it.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> from thalweg import nn
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).save(path)
        >>> nn.Sequential.load(path).num_parameters
        13
        """
        import json

        arrays, text = _safetensors.load(path)
        if "thalweg" not in text:
            raise DataError(
                f"{os.fspath(path)!r} does not say which layers its arrays belong to; make the "
                "model and give the arrays to load_state_dict"
            )
        model = cls._from_description(json.loads(text["thalweg"]))
        # Trainers and strategies put arrays of theirs beside the model's.
        others = ("optimizer.", "strategy.")
        model.load_state_dict({n: a for n, a in arrays.items() if not n.startswith(others)})
        return model

    def _description(self) -> dict[str, Any]:
        """Describe this model without its numbers, as plain data."""
        return {
            "version": _STATE_VERSION,
            "layers": [_spec.describe(layer) for layer in self._layers],
            "dtype": self._dtype.name,
            "seed": self._seed,
            "passes": self._core.passes(),
        }

    @staticmethod
    def _from_description(description: dict[str, Any]) -> "Sequential":
        """Make a model from that."""
        if description["version"] != _STATE_VERSION:
            raise UnsupportedError(
                f"this model has format {description['version']}; this version of thalweg reads "
                f"format {_STATE_VERSION}"
            )
        known = {
            name: kind
            for name, kind in vars(_layers).items()
            if isinstance(kind, type) and issubclass(kind, Layer)
        }
        layers = _spec.rebuild(description["layers"], known)
        model = Sequential(*layers, dtype=description["dtype"], seed=description["seed"])
        model._core.set_passes(description["passes"])
        return model

    # --- copies ---------------------------------------------------------------------------------

    def fold(self) -> "Sequential":
        r"""Copy this model for inference, normalizations folded into the weights before them.

        A `BatchNorm1d` directly behind a `Linear` is in evaluation one more affine map, and both
        together are a `Linear` with

        .. math::

            W' = \operatorname{diag}(s)\,W, \quad b' = s\,(b - \mu) + \beta, \quad
            s = \gamma / \sqrt{\sigma^2 + \epsilon}

        of the running averages :math:`\mu` and :math:`\sigma^2`. Jacob et al. 2018,
        arXiv:1712.05877, section 3.2; PyTorch's ``fuse_linear_bn_eval``.

        Returns
        -------
        Sequential
            Without those normalizations, so that later layers have smaller numbers; its output is
            that of a call of this model, but for rounding. Everything else is the same; in blocks
            of `Residual` normalizations are folded, too.

        Raises
        ------
        DataError
            If a folded weight is too large for the model's dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from thalweg import nn
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        >>> folded, x = model.fold(), np.ones((3, 2))
        >>> [type(layer).__name__ for layer in folded.layers]
        ['Linear', 'ReLU', 'Linear']
        >>> np.allclose(folded(x), model(x), atol=1e-6)
        True
        """
        state: dict[str, Array] = {}
        layers = _folded(self._layers, "", "", self.state_dict(), state)
        copy = Sequential(*layers, dtype=self._dtype.name, seed=self._seed)
        copy.load_state_dict(state)
        copy._core.set_passes(self._core.passes())
        return copy

    def astype(self, dtype: str) -> "Sequential":
        """Copy this model into another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}

        Returns
        -------
        Sequential
            With the parameters rounded to `dtype` and gradients of zero.

        Raises
        ------
        ArgumentError
            If the dtype is another one.
        DataError
            If a parameter is too large for float32.
        """
        copy = Sequential(*self._layers, dtype=dtype, seed=self._seed)
        copy.flat_parameters = self.flat_parameters
        copy._core.set_passes(self._core.passes())
        copy._core.set_averages(
            _arrays.finite(
                _arrays.as_dtype(self._core.averages(), copy._dtype, "averages"), "averages"
            )
        )
        return copy

    def _with_parameters(self, flat: Array) -> "Sequential":
        """Copy, with other parameters."""
        twin = Sequential(*self.layers, dtype=self.dtype.name, seed=self.seed)
        twin.flat_parameters = flat
        twin._core.set_averages(self._core.averages())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Used by pickle and by copy.deepcopy. Gradients are left out: they belong to a batch.
        return {
            "version": _STATE_VERSION,
            "layers": self._layers,
            "dtype": self._dtype.name,
            "seed": self._seed,
            "parameters": self.flat_parameters,
            "averages": self._core.averages(),
            "passes": self._core.passes(),
            # What a class of the user's own has beside.
            "own": {name: value for name, value in vars(self).items() if name not in _MINE},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["version"] != _STATE_VERSION:
            raise UnsupportedError(
                f"this pickle of a model has format {state['version']}; this version of thalweg "
                f"reads format {_STATE_VERSION}"
            )
        # Not through __init__ of a subclass, whose arguments may be others.
        Sequential.__init__(self, *state["layers"], dtype=state["dtype"], seed=state["seed"])
        self._core.set_parameters(state["parameters"])
        if len(averages := state.get("averages", ())):  # not in pickles of the first version
            self._core.set_averages(averages)
        self._core.set_passes(state.get("passes", 0))
        vars(self).update(state.get("own", {}))


#: The attributes that `Sequential` sets.
_MINE = ("_layers", "_dtype", "_seed", "_shaper", "_in_shape", "_renamed", "_core", "_predict")


def _summary(
    layers: tuple[Layer, ...], prefix: str, width: int, sizes: Mapping[str, int]
) -> list[tuple[str, str, str]]:
    """Make the rows of a table of layers, those in a block below it."""
    rows = []
    for index, layer in enumerate(layers):
        here = f"{prefix}{index}"
        width = getattr(layer, "out_features", width)
        inside = layer.layers if isinstance(layer, _layers.Residual) else ()
        indent = "   " * prefix.count(".")
        count = sum(size for name, size in sizes.items() if name.startswith(f"{here}."))
        text = type(layer).__name__ if inside else repr(layer)
        rows.append((f"{indent}{here}  {text}", f"(n, {width})", f"{count:,}"))
        rows += _summary(inside, f"{here}.", width, sizes)
    return rows


class _Table(str):
    """Text of several lines, which a prompt shows as such."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _dtype_name(dtype: Any) -> str:
    """Name a dtype given as a name, a NumPy type or a NumPy dtype."""
    name = dtype
    if dtype is not None and not isinstance(dtype, str):  # None is float64 to NumPy
        with contextlib.suppress(TypeError):  # not a dtype at all: reported below
            name = np.dtype(dtype).name
    return _checks.one_of("dtype", name, ("float32", "float64"))


def _folded(
    layers: tuple[Layer, ...], old: str, new: str, state: dict[str, Array], into: dict[str, Array]
) -> list[Layer]:
    """Fold normalizations; `state`, named from `old` on, goes into `into`, named from `new` on."""
    made: list[Layer] = []
    for index, layer in enumerate(layers):
        here, before = f"{old}{index}.", layers[index - 1] if index else None
        if isinstance(layer, _layers.BatchNorm1d) and isinstance(before, _layers.Linear):
            # In float64: the result is rounded once.
            mean, variance = (
                state[here + n].astype(float) for n in ("running_mean", "running_var")
            )
            scale = 1 / np.sqrt(variance + layer.eps)
            if layer.affine:
                scale *= state[here + "weight"]
            shift = state[here + "bias"] if layer.affine else 0.0
            place = f"{new}{len(made) - 1}."
            bias = into.get(place + "bias", np.zeros(1))
            into[place + "weight"] = scale[:, None] * into[place + "weight"]
            into[place + "bias"] = scale * (bias - mean) + shift
            made[-1] = dataclasses.replace(before, bias=True)
            continue
        place = f"{new}{len(made)}."
        if isinstance(layer, _layers.Residual):
            layer = _layers.Residual(*_folded(layer.layers, here, place, state, into))
        else:
            own = {n.removeprefix(here): v for n, v in state.items() if n.startswith(here)}
            into.update({place + name: values for name, values in own.items()})
        made.append(layer)
    return made
