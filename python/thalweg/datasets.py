"""Data for trying things out."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._habits import takes
from thalweg.errors import ArgumentError

__all__ = ["Digits", "digits"]


def __dir__() -> list[str]:
    return __all__


class Digits(NamedTuple):
    """Handwritten digits, in two parts: images (n, 64), float32 in [0, 1]; labels (n,), int64."""

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]

    def __repr__(self) -> str:
        return f"Digits({len(self.x_train)} + {len(self.x_test)} images of 8x8)"


@takes("datasets.digits", {})
def digits(test_fraction: float = 1 / 3, seed: int = 0) -> Digits:
    """Load real handwritten digits: 1797 images of 8 x 8 pixels, 10 classes, from scikit-learn.

    Parameters
    ----------
    test_fraction : float, default 1/3
        Fraction of the images to hold out, above 0 and below 1.
    seed : int, default 0
        Seed of the random split.

    Returns
    -------
    Digits
        ``(x_train, y_train, x_test, y_test)``; pixel values 0 to 16 are scaled to [0, 1].

    Raises
    ------
    ArgumentError
        If the fraction leaves one of the parts empty.
    ImportError
        If scikit-learn is not installed. The data is part of it: nothing is downloaded.

    References
    ----------
    Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI machine learning
    repository (the test part).
    """
    fraction = _checks.real("test_fraction", test_fraction, 0, 1, closed="()")
    seed = _checks.integer("seed", seed, 0)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("datasets.digits needs scikit-learn: pip install scikit-learn") from None
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    y = labels.astype(np.int64)
    held_out = round(fraction * len(x))
    if not 0 < held_out < len(x):
        raise ArgumentError(
            f"test_fraction={fraction:g} holds out {held_out} of {len(x)} images; each part needs "
            "at least one"
        )
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[held_out:], order[:held_out]
    return Digits(x[train], y[train], x[test], y[test])
