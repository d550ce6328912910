"""Models in files."""

import json
import stat

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn


def make(dtype="float32"):
    return nn.Sequential(
        nn.Linear(5, 16, init="kaiming_normal"), nn.BatchNorm1d(16, momentum=0.3),
        nn.LeakyReLU(0.2), nn.Linear(16, 3, bias=False), dtype=dtype, seed=9,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_to_the_last_bit(dtype, tmp_path, rng):
    model = make(dtype)
    model.forward(rng.standard_normal((8, 5)))  # moves the running averages
    model.save(tmp_path / "model.safetensors")
    again = nn.Sequential.load(tmp_path / "model.safetensors")
    assert (repr(again), again.dtype, again.seed) == (repr(model), model.dtype, 9)
    x = rng.standard_normal((7, 5))
    np.testing.assert_array_equal(again(x), model(x))
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values, err_msg=name)


def test_a_file_is_what_safetensors_says(tmp_path):
    """The format, read with nothing of ours."""
    model, path = make(), tmp_path / "model.safetensors"
    model.save(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    entry = header["3.weight"]
    start, end = (8 + length + place for place in entry["data_offsets"])
    assert (entry["dtype"], entry["shape"]) == ("F32", [3, 16])
    np.testing.assert_array_equal(
        np.frombuffer(raw[start:end], "<f4").reshape(3, 16), model.state_dict()["3.weight"]
    )
    assert max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__") == (
        len(raw) - 8 - length
    )


def test_a_save_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("something else")
    path.chmod(0o644)
    make().save(path)
    nn.Sequential.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    with pytest.raises(OSError, match="nowhere"):
        make().save(tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -1])
def test_files_that_are_cut_short_are_refused(keep, tmp_path):
    path = tmp_path / "model.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(tw.DataError, match="not a whole safetensors file"):
        nn.Sequential.load(path)


def test_files_of_others_and_of_the_future_are_named(tmp_path):
    from thalweg import _safetensors

    path = tmp_path / "model.safetensors"
    _safetensors.save(path, {"0.weight": np.zeros((2, 2), np.float32)}, {})
    with pytest.raises(tw.DataError, match="does not say which layers"):
        nn.Sequential.load(path)
    description = make()._description()
    for change, message in [
        ({"version": 99}, "format 99"),
        ({"layers": [{"type": "Attention"}]}, "'Attention'"),
    ]:
        _safetensors.save(path, {}, {"thalweg": json.dumps(description | change)})
        with pytest.raises(tw.UnsupportedError, match=message):
            nn.Sequential.load(path)


def test_a_layer_of_the_users_own_is_not_saved_silently(tmp_path):
    class Mine(nn.ReLU):
        pass

    with pytest.raises(tw.UnsupportedError, match=r"Mine.* not thalweg's own"):
        nn.Sequential(nn.Linear(2, 2), Mine()).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
