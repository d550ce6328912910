"""Layers for tables: learned vectors for categories, and numbers divided into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _checks, _habits
from thalweg._description import description
from thalweg.errors import ArgumentError, ShapeError, UnsupportedError
from thalweg.nn._layers._base import Layer

#: Other libraries' names for the arguments of `TabularInput`.
_ELSEWHERE = {
    **_habits.OF_LAYERS,
    **dict.fromkeys(
        ("cardinalities", "cat_cardinalities", "embedding_sizes", "num_embeddings"),
        "it is categories, {column: (codes, length)}",
    ),
    **dict.fromkeys(("bins", "edges"), "it is pieces, {column: edges}"),
}


@description
class TabularInput(Layer):
    r"""First layer for tables, with numeric columns and categorical ones as learned vectors.

    A categorical column holds integer codes from 0 up (those of scikit-learn's ``OrdinalEncoder``
    or pandas' ``cat.codes``), in the same array as the numbers. Each code stands for a trainable
    vector, an embedding (Guo & Berkhahn 2016, arXiv:1604.06737). The output has the numeric columns
    first, in order, either unchanged or divided into pieces of their range, and then the vectors of
    each categorical column.

    Parameters
    ----------
    in_features : int
        Number of input columns of both kinds.
    categories : dict of int to (int, int), optional
        For each categorical column, the number of codes and the length of a vector.
    pieces : dict of int to sequence of float, keyword only, optional
        For numeric columns to be divided into pieces of their range, the edges of the pieces in
        ascending order; `nn.utils.quantile_edges` finds pieces that hold equally many samples. In
        place of the number x, the output has as many numbers as there are pieces,

        .. math:: y_t = \frac{x - b_{t-1}}{b_t - b_{t-1}}, \qquad t = 1, \dots, T,

        at least 0 except for the first, and at most 1 except for the last. From these, a linear
        layer can make any continuous piecewise linear function (Gorishniy, Rubachev & Babenko 2022,
        "On embeddings for numerical features in tabular deep learning", arXiv:2203.05556).

    Raises
    ------
    ArgumentError
        If there is no such column, a number is below 1, edges do not ascend, or a column is in
        both; from `Sequential`, if it is not the first layer, or edges do not ascend in its dtype.

    Notes
    -----
    A number in a categorical column that is not a code (too large, negative, 1.5) raises
    `DataError` before anything changes. The tables are parameters, ``"0.3.weight"`` for column 3,
    of shape (codes, length), initially standard normal as in PyTorch's ``Embedding``. Rows whose
    codes do not occur in a batch have gradient 0, and so do the codes themselves. At an edge, the
    gradient with respect to x is that of the piece above it.

    Examples
    --------
    Three numbers, and a weekday in column 1:

    >>> from thalweg import nn
    >>> table = nn.TabularInput(4, {1: (7, 2)})
    >>> table.out_features
    5
    >>> model = nn.Sequential(table, nn.Linear(5, 1))
    >>> model([[0.5, 6, -1.2, 3.0]]).shape
    (1, 1)

    A number divided into two pieces:

    >>> nn.TabularInput(1, pieces={0: [0, 1, 3]}).out_features
    2
    """

    in_features: int
    categories: tuple[tuple[int, int, int], ...]
    pieces: tuple[tuple[int, tuple[float, ...]], ...]

    @_habits.takes("TabularInput", _ELSEWHERE)
    def __init__(
        self,
        in_features: int,
        categories: Mapping[int, tuple[int, int]] | Iterable[tuple[int, int, int]] = (),
        *,
        pieces: Mapping[int, Iterable[float]] | Iterable[tuple[int, Iterable[float]]] = (),
    ) -> None:
        name = "TabularInput: "
        self._set(in_features=_checks.integer(name + "in_features", in_features, 1))
        if isinstance(categories, Mapping):
            items = [(column, *_pair(name, column, sizes)) for column, sizes in categories.items()]
        else:  # as stored in this class and in files
            given = _checks.sequence(name + "categories", categories, ordered=False)
            items = [tuple(item) if _checks.is_several(item) else (item,) for item in given]
        checked = []
        for item in items:
            if len(item) != 3:
                raise ArgumentError(
                    f"{name}categories must be a dict {{column: (codes, length)}}; got {item!r}"
                )
            column, codes, length = item
            column = _checks.integer(name + "a column", column, 0, self.in_features - 1)
            what = f"{name}categories[{column}]"
            codes = _checks.integer(f"{what}, number of codes", codes, 1)
            checked.append((column, codes, _checks.integer(f"{what}, length", length, 1)))
        if len({column for column, *_ in checked}) < len(checked):
            raise ArgumentError(f"{name}categories names a column twice: {items}")
        self._set(categories=tuple(sorted(checked)))
        self._set_pieces(pieces)

    def _set_pieces(self, pieces: Any) -> None:
        name, checked = "TabularInput: ", {}
        items = pieces.items() if isinstance(pieces, Mapping) else pieces
        for item in _checks.sequence(name + "pieces", items, ordered=False):
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise ArgumentError(f"{name}pieces must be a dict {{column: edges}}; got {item!r}")
            column, edges = item
            column = _checks.integer(name + "a column of pieces", column, 0, self.in_features - 1)
            what = f"{name}pieces[{column}]"
            if column in checked or column in {c for c, *_ in self.categories}:
                raise ArgumentError(
                    f"{what}: this column is given twice, in pieces or in categories"
                )
            edges = _checks.sequence(what, edges)
            edges = tuple(_checks.real(f"{what}[{i}]", edge) for i, edge in enumerate(edges))
            if len(edges) < 2 or not (np.diff(edges) > 0).all():
                raise ArgumentError(
                    f"{what} must be at least 2 increasing edges; got {list(edges)}"
                )
            checked[column] = edges
        self._set(pieces=tuple(sorted(checked.items())))

    @property
    def out_features(self) -> int:
        """Width of a row of the output."""
        numbers = self.in_features - len(self.categories)
        spread = sum(len(edges) - 2 for _, edges in self.pieces)
        return numbers + spread + sum(length for _, _, length in self.categories)

    def __repr__(self) -> str:
        categories = {column: tuple(sizes) for column, *sizes in self.categories}
        pieces = {column: list(edges) for column, edges in self.pieces}
        more = f", pieces={pieces}" if pieces else ""
        return f"TabularInput({self.in_features}, {categories}{more})"

    def _spec(self) -> tuple[Any, ...]:
        pieces = [(column, list(edges)) for column, edges in self.pieces]
        return ("tabular", self.in_features, [list(item) for item in self.categories], pieces)


@description
class Embedding(Layer):
    r"""First layer for codes of one kind: each code is a learned vector, as in PyTorch.

    .. math:: y_i = W_{x_i}

    The input holds integer codes from 0 to ``num_embeddings - 1``, shape (n,) or as a column (n,
    1), in an array of integers or floats; the output has shape (n, embedding_dim). For several
    columns, of codes or of codes and numbers, `TabularInput` has one table per categorical column.

    Parameters
    ----------
    num_embeddings : int
        Number of codes, and of rows of `W`.
    embedding_dim : int
        Length of a vector, and width of a row of the output.

    Raises
    ------
    ArgumentError
        If a number is below 1; from `Sequential`, if it is not the first layer.
    UnsupportedError
        From `Sequential`, if there are more codes than its dtype can tell apart, 2**24 in float32.

    Notes
    -----
    `W`, ``"0.weight"``, of shape (num_embeddings, embedding_dim), is initially standard normal.
    With `g` the gradient with respect to `y`, the gradient with respect to row `c` of `W` is
    :math:`\sum_{i:\,x_i = c} g_i`, so 0 if a code does not occur in a batch; optimizers with
    averages or weight decay move such rows all the same, as in PyTorch without ``sparse=True``. The
    gradient with respect to the codes is 0. Anything that is not a code (too large, negative, 1.5)
    raises a `DataError` that names it, before anything changes.

    It is a `TabularInput` with one column, and the core's plans show that name. PyTorch's layer
    also takes several codes per sample, with one table for all of them; this one does not.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 1))
    >>> model([0, 6, 6]).shape
    (3, 1)
    >>> model.state_dict()["0.weight"].shape
    (7, 3)
    """

    num_embeddings: int
    embedding_dim: int

    def __post_init__(self) -> None:
        self._check("num_embeddings", 1, by=_checks.integer)
        self._check("embedding_dim", 1, by=_checks.integer)

    @property
    def in_features(self) -> int:
        """Width of a row of the input, 1."""
        return 1

    @property
    def out_features(self) -> int:
        """Width of a row of the output, `embedding_dim`."""
        return self.embedding_dim

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"

    def _table(self) -> TabularInput:
        return TabularInput(1, {0: (self.num_embeddings, self.embedding_dim)})

    def _spec(self) -> tuple[Any, ...]:
        return self._table()._spec()

    def _as_rows(self, x: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """Convert the input of a model that begins with this layer to rows."""
        if x.ndim == 1:
            return x[:, np.newaxis]
        if x.ndim != 2 or x.shape[1] != 1:
            hint = ""
            if x.ndim == 2 and x.shape[1] > 1:
                table = f"{{0: ({self.num_embeddings}, {self.embedding_dim}), ...}}"
                hint = f"; nn.TabularInput({x.shape[1]}, {table}) has a table for each column"
            raise ShapeError(
                f"{name} must be codes for {self!r}, shape (n,) or (n, 1); got shape "
                f"{x.shape}{hint}"
            )
        return x


def check_tables(layers: Iterable[Layer], dtype: np.dtype[Any]) -> None:
    """Raise if a layer of codes is not the first, or `dtype` cannot tell all codes apart."""
    for index, layer in enumerate(layers):
        if isinstance(layer, Embedding) and index > 0:
            raise ArgumentError(
                f"layer {index} is {layer!r}, whose input is codes: it must be the first layer"
            )
        table = layer._table() if isinstance(layer, Embedding) else layer
        if not isinstance(table, TabularInput):
            continue
        most = 2 ** (np.finfo(dtype).nmant + 1)  # beyond it, different numbers become equal
        for column, codes, _ in table.categories:
            if codes > most:
                raise UnsupportedError(
                    f"layer {index} ({type(layer).__name__}): column {column} has {codes} codes, "
                    f"but {dtype} can represent only {most} of them exactly; use a model with "
                    'dtype="float64"'
                )
        for column, edges in table.pieces:
            with np.errstate(over="ignore"):
                rounded = np.array(edges, dtype)
            if not np.isfinite(rounded).all() or not (np.diff(rounded) > 0).all():
                raise ArgumentError(
                    f"layer {index} ({type(layer).__name__}): pieces[{column}] must be finite "
                    f"edges that increase in {dtype}, the model's dtype; got {list(edges)}: scale "
                    'the column, subtract an offset, or use a model with dtype="float64"'
                )


def _pair(name: str, column: Any, sizes: Any) -> tuple[Any, Any]:
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        raise ArgumentError(
            f"{name}categories[{column!r}] must be a tuple (codes, length); got {sizes!r}"
        )
    return sizes[0], sizes[1]
