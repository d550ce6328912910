"""Layers for inputs that are not plain numbers in rows, and for inputs of few columns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from thalweg import _checks, _habits
from thalweg._description import description
from thalweg.errors import ArgumentError
from thalweg.nn._layers._base import Activation, Layer
from thalweg.nn._layers._tables import TabularInput as TabularInput  # older pickles expect it here


@description
class Flatten(Activation):
    """Makes each sample a row, whatever its shape: (n, a, b, ...) becomes (n, a b ...).

    As the first layer of a `Sequential`, it accepts images and the like in their own shape, in C
    order as PyTorch's ``Flatten()``; `Sequential.backward` then returns a gradient of the input's
    shape. Anywhere else, samples are rows already, and it does nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    >>> model(np.zeros((5, 28, 28))).shape
    (5, 10)
    """

    _kind = "identity"

    def _as_rows(self, x: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """Convert the input of a model that begins with this layer to rows."""
        return x.reshape(len(x), math.prod(x.shape[1:])) if x.ndim > 2 else x


#: Other libraries' names for the arguments of `FourierFeatures`.
_OF_FEATURES = {
    **_habits.OF_LAYERS,
    **dict.fromkeys(("scale", "std", "gamma"), "it is sigma, in periods per unit"),
    **dict.fromkeys(("mapping_size", "n_components", "output_dim"), "it is num_frequencies"),
}


@description
class FourierFeatures(Layer):
    r"""Sines and cosines of many frequencies, which are not trained.

    .. math:: y = [\sin(2\pi\,x B),\ \cos(2\pi\,x B)]

    Networks with few inputs, such as coordinates, need such features to learn anything that varies
    rapidly with the inputs. Tancik, Srinivasan, Mildenhall et al. 2020, arXiv:2006.10739. `B`, of
    shape (in_features, m), holds normal numbers with standard deviation `sigma`, drawn from the
    model's seed, or with `bands` the given frequencies along each axis separately. The output has
    `2 m` columns.

    Parameters
    ----------
    in_features : int
        Width of a row of the input.
    num_frequencies : int, default 128
        Number of frequency vectors to draw, `m`.
    sigma : float, keyword only, default 1.0
        Their standard deviation, above 0, in periods per unit of `x`: the larger it is, the finer
        the details that are easily learned, and the noise.
    bands : sequence of float, keyword only, optional
        Frequencies along each axis instead, e.g. ``[2**j for j in range(8)]``; then `m` is
        ``in_features * len(bands)``, axis by axis.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or `bands` is combined with `num_frequencies` or `sigma`.

    Notes
    -----
    `B` is not a parameter, but `Sequential.state_dict` holds it as ``"0.frequencies"``, and
    `Sequential.load_state_dict` sets it. The description does not change with it: another model
    made of ``model.layers`` draws its own, until it gets these by `Sequential.load_state_dict` or
    `Sequential.follow`.

    With the gradient with respect to `y` written as :math:`g = [g_s, g_c]`, and :math:`y = [s, c]`,
    the gradient with respect to `x` is :math:`2\pi\,(g_s c - g_c s)\,B^\top`.

    Trainable features are ``nn.Linear(in_features, 2 * m), nn.Sine(2 * np.pi)`` with the weight
    :math:`[B^\top; B^\top]`, of shape (2 m, in_features), and biases of 0 and 1/4 for the two
    halves. Frozen, they do the same as this layer, at any place also with `DerivativeLoss`.

    Examples
    --------
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.FourierFeatures(2, 64, sigma=10), nn.Linear(128, 1))
    >>> model([[0.5, 0.25]]).shape
    (1, 1)
    >>> nn.FourierFeatures(2, bands=[1, 2, 4]).out_features
    12
    """

    in_features: int
    num_frequencies: int
    sigma: float
    bands: tuple[float, ...] | None

    # Written out, since its arguments may be None, and `bands` any sequence.
    @_habits.takes("FourierFeatures", _OF_FEATURES)
    def __init__(
        self,
        in_features: int,
        num_frequencies: int | None = None,
        *,
        sigma: float | None = None,
        bands: Iterable[float] | None = None,
    ) -> None:
        name = "FourierFeatures: "
        self._set(in_features=_checks.integer(name + "in_features", in_features, 1))
        if bands is not None:
            bands = _checks.sequence(name + "bands", bands)
            bands = tuple(_checks.real(f"{name}bands[{i}]", b) for i, b in enumerate(bands))
            if not bands:
                raise ArgumentError(f"{name}bands must have at least one frequency")
            count = self.in_features * len(bands)
            if num_frequencies not in (None, count) or sigma not in (None, 1.0):
                raise ArgumentError(
                    f"{name}bands are the frequencies themselves; leave num_frequencies and sigma "
                    "out"
                )
            num_frequencies = count
        count = 128 if num_frequencies is None else num_frequencies
        self._set(num_frequencies=count, sigma=1.0 if sigma is None else sigma, bands=bands)
        self._check("num_frequencies", 1, by=_checks.integer)
        self._check("sigma", 0, math.inf, "()")

    @property
    def out_features(self) -> int:
        """Width of a row of the output, twice the number of frequencies."""
        return 2 * self.num_frequencies

    def __repr__(self) -> str:
        if self.bands is not None:
            return f"FourierFeatures({self.in_features}, bands={list(self.bands)})"
        return f"FourierFeatures({self.in_features}, {self.num_frequencies}, sigma={self.sigma})"

    def _spec(self) -> tuple[Any, ...]:
        bands = list(self.bands or ())
        return ("fourier", self.in_features, self.num_frequencies, self.sigma, bands)
