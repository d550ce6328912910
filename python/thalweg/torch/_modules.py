"""Layers that PyTorch has not, as modules of its own: with the state dict that they have here.

Each is made with what its layer is made with, and has it in attributes of the same names.
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
    """Modules one after another, whose output is added to their input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x + f(x)."""
        return x + super().forward(x)


class Sine(torch.nn.Module):
    """The sine of omega x."""

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute sin(omega x)."""
        return torch.sin(self.omega * x)

    def extra_repr(self) -> str:
        """Show what it was made with."""
        return f"omega={self.omega}"


class FourierFeatures(torch.nn.Module):
    """Sines and cosines of the frequencies in a buffer of this name."""

    def __init__(
        self, in_features: int, num_frequencies: int, sigma: float, bands: tuple[float, ...] | None
    ) -> None:
        super().__init__()
        self.in_features, self.num_frequencies = in_features, num_frequencies
        self.sigma, self.bands = sigma, bands
        # Those of the model are loaded.
        self.register_buffer("frequencies", torch.zeros(in_features, num_frequencies))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute [sin(2π x B), cos(2π x B)]."""
        turns = x @ self.frequencies
        # Whole turns are taken off first, exactly: of an angle of many turns little would be left.
        angle = 2 * math.pi * (turns - torch.round(turns).detach())
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)

    def extra_repr(self) -> str:
        """Show what it was made with."""
        drawn = f"sigma={self.sigma}" if self.bands is None else f"bands={list(self.bands)}"
        return f"{self.in_features}, {self.num_frequencies}, {drawn}"


class Standardize(torch.nn.Module):
    """Columns on a common scale, or back, by the buffers of these names."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        # Those of the model are loaded.
        self.register_buffer("mean", torch.zeros(len(mean)))
        self.register_buffer("std", torch.ones(len(std)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (x - mean) / std, or back."""
        return x * self.std + self.mean if self.inverse else (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show what it was made with."""
        return f"{len(self.mean)} columns, inverse={self.inverse}"


class TabularInput(torch.nn.Module):
    """Columns of numbers, and columns of codes as vectors of an ``Embedding`` each."""

    def __init__(self, in_features: int, categories: Categories, pieces: Pieces) -> None:
        super().__init__()
        self.in_features = in_features
        self.categories, self.pieces = tuple(categories), tuple(pieces)
        for column, codes, length in self.categories:
            self.add_module(str(column), torch.nn.Embedding(codes, length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the columns of numbers, spread over their pieces, and then the vectors."""
        edges, coded = dict(self.pieces), {column for column, *_ in self.categories}
        parts = [
            _spread(x[:, [column]], edges[column]) if column in edges else x[:, [column]]
            for column in range(self.in_features)
            if column not in coded
        ]
        parts += [
            self.get_submodule(str(column))(x[:, column].long()) for column, *_ in self.categories
        ]
        return torch.cat(parts, dim=1)

    def extra_repr(self) -> str:
        """Show what it was made with."""
        return f"{self.in_features}, pieces={dict(self.pieces)}"


def _spread(x: torch.Tensor, edges: tuple[float, ...]) -> torch.Tensor:
    """Spread a column over pieces; see `thalweg.nn.TabularInput`."""
    b = x.new_tensor(edges)
    y = (x - b[:-1]) / (b[1:] - b[:-1])
    low, high = torch.zeros_like(b[1:]), torch.ones_like(b[1:])
    low[0], high[-1] = -math.inf, math.inf  # the first goes on downwards, the last one upwards
    return torch.minimum(torch.maximum(y, low), high)
