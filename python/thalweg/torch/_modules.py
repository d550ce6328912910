"""Layers that PyTorch lacks, as PyTorch modules with the same state dict as here.

Each takes the same arguments as its layer, and keeps them in attributes of the same names.
"""

import math
from collections.abc import Iterable

try:
    import torch as torch
except ImportError:
    raise ImportError(
        "tw.torch needs PyTorch; install it with: pip install torch --index-url "
        "https://download.pytorch.org/whl/cpu (or as pytorch.org says for this machine)"
    ) from None

#: How `nn.TabularInput` keeps its categories and pieces.
Categories = Iterable[tuple[int, int, int]]
Pieces = Iterable[tuple[int, tuple[float, ...]]]


class Residual(torch.nn.Sequential):
    """A sequence of modules whose output is added to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x + f(x)."""
        y = x  # not super().forward(x), which TorchScript does not know
        for module in self:
            y = module(y)
        return x + y


class Concatenate(torch.nn.Sequential):
    """A sequence of modules whose output comes after its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (x, f(x))."""
        y = x
        for module in self:
            y = module(y)
        return torch.cat((x, y), dim=1)


class Sine(torch.nn.Module):
    """The sine of omega x."""

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute sin(omega x)."""
        return torch.sin(self.omega * x)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"omega={self.omega}"


class FourierFeatures(torch.nn.Module):
    """Sines and cosines with the frequencies in the buffer of that name."""

    def __init__(
        self, in_features: int, num_frequencies: int, sigma: float, bands: tuple[float, ...] | None
    ) -> None:
        super().__init__()
        self.in_features, self.num_frequencies = in_features, num_frequencies
        self.sigma, self.bands = sigma, bands
        # The model's are loaded later.
        self.register_buffer("frequencies", torch.zeros(in_features, num_frequencies))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute [sin(2π x B), cos(2π x B)]."""
        turns = x @ self.frequencies
        # Whole turns are subtracted first, which is exact: large angles would lose their digits.
        angle = 2 * math.pi * (turns - torch.round(turns).detach())
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)

    def extra_repr(self) -> str:
        """Show the arguments."""
        drawn = f"sigma={self.sigma}" if self.bands is None else f"bands={list(self.bands)}"
        return f"{self.in_features}, {self.num_frequencies}, {drawn}"


class Standardize(torch.nn.Module):
    """Columns scaled to a common scale, or back, by the buffers of mean and std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        # The model's are loaded later.
        self.register_buffer("mean", torch.zeros(len(mean)))
        self.register_buffer("std", torch.ones(len(std)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (x - mean) / std, or its inverse."""
        return x * self.std + self.mean if self.inverse else (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{len(self.mean)} columns, inverse={self.inverse}"


class TabularInput(torch.nn.Module):
    """Numeric columns, and columns of codes, each as vectors of an ``Embedding``."""

    #: The numeric columns, the number of edges of the pieces of each, and the columns of codes;
    #: TorchScript needs the types.
    numeric: list[int]
    counts: list[int]
    coded: list[int]
    edges: torch.Tensor

    def __init__(self, in_features: int, categories: Categories, pieces: Pieces) -> None:
        super().__init__()
        self.in_features = in_features
        self.categories, self.pieces = tuple(categories), tuple(pieces)
        self.coded = [column for column, *_ in self.categories]
        for column, codes, length in self.categories:
            self.add_module(str(column), torch.nn.Embedding(codes, length))
        self.numeric = [column for column in range(in_features) if column not in self.coded]
        edges = [dict(self.pieces).get(column, ()) for column in self.numeric]
        self.counts = [len(it) for it in edges]
        # A buffer, since TorchScript would round a list of numbers to single precision; not in the
        # state dict, since the layer is made with them.
        together = torch.tensor([edge for it in edges for edge in it], dtype=torch.float64)
        self.register_buffer("edges", together, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the numeric columns, spread over their pieces, and then the vectors."""
        parts, start = [], 0
        for index, column in enumerate(self.numeric):
            part, count = x[:, column : column + 1], self.counts[index]
            parts.append(_spread(part, self.edges[start : start + count]) if count else part)
            start += count
        for index, vectors in enumerate(self.children()):
            parts.append(vectors(x[:, self.coded[index]].long()))
        return torch.cat(parts, dim=1)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{self.in_features}, pieces={dict(self.pieces)}"


def _spread(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Spread a column over pieces with the edges b; see `thalweg.nn.TabularInput`."""
    y = (x - b[:-1]) / (b[1:] - b[:-1])
    low, high = torch.zeros_like(b[1:]), torch.ones_like(b[1:])
    low[0], high[-1] = -math.inf, math.inf  # the first is unbounded below, the last above
    return torch.minimum(torch.maximum(y, low), high)
