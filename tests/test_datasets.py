"""The data set that examples and tests use."""

import numpy as np
import pytest

import thalweg as tw


def test_the_digits_are_whole_and_split_at_random():
    pytest.importorskip("sklearn")
    data = tw.datasets.digits()
    x_train, y_train, x_test, y_test = data
    assert x_train.shape == (1198, 64)
    assert x_test.shape == (599, 64)
    assert (x_train.dtype, y_train.dtype) == (np.float32, np.int64)
    assert x_train.min() == 0
    assert x_train.max() == 1
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    # No image is in both parts, and none is lost.
    every = np.concatenate([x_train, x_test])
    assert len(np.unique(every, axis=0)) == 1797
    np.testing.assert_array_equal(tw.datasets.digits(seed=0).x_test, x_test)
    assert not np.array_equal(tw.datasets.digits(seed=1).x_test, x_test)
    assert len(tw.datasets.digits(test_fraction=0.1).y_test) == 180
    assert repr(data) == "Digits(1198 + 599 images of 8x8)"


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1e-6, 0.99999, "a third"])
def test_a_split_that_leaves_nothing_is_an_error(fraction):
    pytest.importorskip("sklearn")
    with pytest.raises(tw.ArgumentError, match="test_fraction"):
        tw.datasets.digits(test_fraction=fraction)
