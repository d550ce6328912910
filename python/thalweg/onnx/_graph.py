"""An ONNX graph that grows node by node."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thalweg._arrays import Array
from thalweg._core import __version__
from thalweg.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx


#: The first opset with LayerNormalization, and the format version that came with it. Runtimes have
#: read both since 2022, whereas the package onnx would write its latest format.
OPSET, _IR = 17, 8

#: What one Protocol Buffers message can hold, leaving some room for what is not an array.
_MOST_BYTES = 2**31 - 2**20


class Tensor(NamedTuple):
    """An input or output of a graph: its name, its dtype, and the shape of one sample."""

    name: str
    dtype: Any
    shape: tuple[int, ...]


def library() -> Any:
    """Import the package onnx, which has the same name as this one."""
    try:
        import onnx
    except ImportError:
        raise ImportError("onnx.export needs the package onnx: pip install onnx") from None
    return onnx


class Graph:
    """Nodes, and the arrays that they use: a model's, by their names in `state_dict`.

    Parameters
    ----------
    state : mapping of str to ndarray
        The model's arrays.
    dtype : dtype
        The dtype of the computation.
    *taken : str
        Names that no node or array may have.
    """

    def __init__(self, state: Mapping[str, Array], dtype: np.dtype[Any], *taken: str) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self._onnx = library()
        self._state = state
        self._taken = set(taken)
        self._place = ""

    @property
    def place(self) -> str:
        """The position of the layer that nodes are added for, such as ``"2.0"``."""
        return self._place.rstrip(".")

    @property
    def single(self) -> bool:
        """Whether the graph computes in float32, the type of operators' attributes."""
        return self.dtype == np.float32

    def at(self, index: int) -> Graph:
        """Return this graph, positioned at a layer inside the current one."""
        inside = copy.copy(self)  # shares the nodes and arrays
        inside._place = f"{self._place}{index}."
        return inside

    def own(self, name: str) -> Array:
        """Return one of the model's arrays by its name in the layer, such as ``"weight"``."""
        return self._state[self._place + name]

    def parameter(self, name: str) -> str:
        """Add one of the model's arrays, and return its name in the graph."""
        return self.array(self.own(name), name)

    def array(self, values: npt.ArrayLike, name: str = "constant") -> str:
        """Add an array, of integers or in this graph's dtype, and return its name."""
        array = np.asarray(values)
        name = self._named(name)
        self.arrays[name] = array.astype(np.int64 if array.dtype.kind == "i" else self.dtype)
        return name

    def op(self, kind: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node, and return the name of its output; plain numbers become 0-D arrays."""
        names = [x if isinstance(x, str) else self.array(float(x)) for x in inputs]
        name = self._named(kind)
        node = self._onnx.helper.make_node(kind, names, [name], name, **attributes)
        self.nodes.append(node)
        return name

    def cast(self, x: str, dtype: type[np.number[Any]]) -> str:
        """Add a conversion to another dtype, and return the name of its output."""
        return self.op("Cast", x, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(self, given: Tensor, wanted: Tensor, doc: str) -> onnx.ModelProto:
        """Make a checked model of the graph, whose output is that of the last node.

        Raises
        ------
        UnsupportedError
            If its arrays are too large for one file.
        """
        helper = self._onnx.helper
        if (size := sum(array.nbytes for array in self.arrays.values())) > _MOST_BYTES:
            raise UnsupportedError(
                f"the parameters take {size} bytes; a single ONNX file has room for {_MOST_BYTES}"
            )
        self.nodes[-1].output[0] = wanted.name
        ends = [
            helper.make_tensor_value_info(
                it.name, helper.np_dtype_to_tensor_dtype(np.dtype(it.dtype)), ["batch", *it.shape]
            )
            for it in (given, wanted)
        ]
        arrays = [self._onnx.numpy_helper.from_array(it, name) for name, it in self.arrays.items()]
        made = helper.make_model(
            helper.make_graph(self.nodes, "thalweg", ends[:1], ends[1:], arrays),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR,
            producer_name="thalweg",
            producer_version=__version__,
            doc_string=doc,
        )
        self._onnx.checker.check_model(made, full_check=True)
        return made

    def _named(self, name: str) -> str:
        """Return an unused name that begins with the layer's position."""
        wanted = found = self._place + name
        count = 1
        while found in self._taken:
            count += 1
            found = f"{wanted}_{count}"
        self._taken.add(found)
        return found
