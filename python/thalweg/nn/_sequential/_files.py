"""Writing a model to a file or pickle, and restoring it bit for bit."""

import os
from typing import Any, BinaryIO, Self

import numpy as np

from thalweg import _arrays, _habits, _safetensors, _spec
from thalweg._arrays import Array
from thalweg.errors import DataError, DivergedError, UnsupportedError
from thalweg.nn import _layers, _names
from thalweg.nn._layers import Layer
from thalweg.nn._sequential._base import MINE, SequentialBase
from thalweg.nn._sequential._parameters import Parameters

#: Version of what `Sequential.__getstate__` returns, so that later versions can read old pickles.
_STATE_VERSION = 1
#: As many outputs cost little memory.
_FEW = 2**20


class Kept(Parameters):
    """The part of a model that saves and loads."""

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the model to a file: layers, parameters, running averages.

        Parameters
        ----------
        path : str, path-like or file object
            Usually ``"….safetensors"``: that is its format, whatever the name. An existing file is
            replaced once the new one is complete, and keeps its permissions; a link to one stays a
            link. A file object, like ``open(..., "wb")`` or `io.BytesIO`, is written to from where
            it is.

        Raises
        ------
        ArgumentError
            If `path` is none of these; or a file object whose methods are to be awaited.
        OSError
            If the file cannot be written.
        UnsupportedError
            If a layer is not one of thalweg's.
        DivergedError
            If a number is infinite or NaN, which can result from too large a learning rate. No file
            is changed then.

        Notes
        -----
        The arrays are those of `state_dict`, so that other libraries can read them; in PyTorch
        ``net.load_state_dict(safetensors.torch.load_file(path))``. Gradients are not saved. The
        metadata of the file include a checksum, ``"thalweg.crc32"``, which loading compares if it
        is there: a file of other arrays must not keep it.
        """
        import json

        arrays, text = self._finite_state_dict(), json.dumps(self._description())
        _safetensors.save(path, arrays, {"thalweg": text})

    @_habits.on_the_class("model.follow(nn.Sequential.load(path)) gives it the numbers of the file")
    @classmethod
    def load(cls, path: str | os.PathLike[str] | BinaryIO) -> Self:
        """Read a model written by `save`.

        Parameters
        ----------
        path : str, path-like or file object
            The file, or one that is open, which is read to its end; for bytes, ``io.BytesIO(b)``.

        Returns
        -------
        Sequential
            The same model, bit for bit, with gradients of zero. To give its numbers to a model that
            is in use: ``model.follow(nn.Sequential.load(path))``. A subclass makes one of its own,
            without calling its ``__init__``: what that adds to a model is not in the file.

        Raises
        ------
        ArgumentError
            If `path` is none of these; or if it is called on a model instead of the class: it would
            not change that model.
        OSError
            If the file cannot be read.
        DataError
            If it is not a complete safetensors file, holds no thalweg model, or is damaged.
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
                f"{_safetensors.named(path)} contains arrays, but not which layers they belong to; "
                "make the model and pass the arrays to load_state_dict"
            )
        # Trainers and strategies store their own arrays beside the model's.
        others = ("optimizer.", "strategy.")
        with _safetensors.whole(path):
            arrays = {n: a for n, a in arrays.items() if not n.startswith(others)}
            model = cls._from_description(json.loads(text["thalweg"]), arrays)
            numbers = model._checked(arrays)
            del arrays  # the contents of the file, before the core copies the numbers
            model._set_all(*numbers)
        return model

    def _finite_state_dict(self) -> dict[str, Array]:
        """Return the arrays to save; `DivergedError` if one could not be loaded again."""
        # Others may save or copy it while a step tries other parameters: threads, signal handlers.
        before, arrays, after = self._unmoved, self.state_dict(), self._unmoved
        if (unmoved := after if before is None else before) is not None:
            arrays |= _names.split(unmoved, self._blocks())
        for name, array in arrays.items():
            if found := _arrays.not_finite(array, name):
                raise DivergedError(
                    f"{found}: training has diverged, and such a model cannot be saved or copied; "
                    "train again with a smaller learning rate, or continue from an earlier file"
                )
        return arrays

    def _description(self) -> dict[str, Any]:
        """Describe this model without its numbers, as plain data."""
        return {
            "version": _STATE_VERSION,
            "layers": [_spec.describe(layer) for layer in self.layers],
            "dtype": self._dtype.name,
            "seed": self._seed,
            "passes": self._core.passes(),
        }

    @classmethod
    def _from_description(cls, description: dict[str, Any], arrays: dict[str, Array]) -> Self:
        """Make a model from such a description, which `arrays` will be loaded into."""
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
        # A few bytes can describe layers that no memory holds, or that take minutes to draw.
        needed = _layers.count_numbers(layers)
        missing = needed - sum(array.size for array in arrays.values())
        if missing > 0:
            raise DataError(f"its layers have {needed} numbers; {missing} of them are missing")
        model = cls.__new__(cls)
        # Not through the __init__ of a subclass, whose arguments may differ.
        SequentialBase.__init__(
            model, *layers, dtype=description["dtype"], seed=description["seed"]
        )
        # Nor any number of outputs, which each block around an activation alone doubles: losses
        # have numbers for each of them.
        if model.out_features > max(2 * needed, _FEW):
            raise DataError(
                f"its layers have {model.out_features} outputs, but only {needed} numbers"
            )
        model._core.set_passes(description["passes"])
        return model

    def __getstate__(self) -> dict[str, Any]:
        # Used by pickle and by copy.deepcopy. Gradients are left out: they belong to a batch.
        arrays = self._finite_state_dict()
        flat = [arrays[name].ravel() for name, _ in self._blocks()]
        return {
            "version": _STATE_VERSION,
            "layers": self._layers,
            "dtype": self._dtype.name,
            "seed": self._seed,
            "parameters": np.concatenate(flat),
            "averages": self._core.averages(),
            "passes": self._core.passes(),
            # Attributes added by a user's subclass.
            "own": {name: value for name, value in vars(self).items() if name not in MINE},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["version"] != _STATE_VERSION:
            raise UnsupportedError(
                f"this pickle of a model has format {state['version']}; this version of thalweg "
                f"reads format {_STATE_VERSION}"
            )
        # Not through the __init__ of a subclass, whose arguments may differ.
        SequentialBase.__init__(self, *state["layers"], dtype=state["dtype"], seed=state["seed"])
        self._core.set_parameters(state["parameters"])
        if len(averages := state.get("averages", ())):  # not in pickles of the first version
            self._core.set_averages(averages)
        self._core.set_passes(state.get("passes", 0))
        vars(self).update(state.get("own", {}))
