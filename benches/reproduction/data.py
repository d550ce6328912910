"""Images of 28 x 28 pixels in ten classes, read from files."""

import gzip
import hashlib
import urllib.request
from pathlib import Path

import numpy as np

#: Where Debian's package dataset-fashion-mnist puts its files.
FASHION = Path("/usr/share/datasets/fashion-mnist")
#: A mirror of MNIST's own files, and their MD5 sums, as torchvision has them.
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
#: What the four arrays are called in .npz files: Keras' names, and longer ones.
NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


def load(path):
    """Images, float32 in [0, 1], (n, 784), and labels, int64: x, y, x_test, y_test.

    `path` is an .npz file, or a directory with the four files of MNIST's format, as they are or
    compressed.
    """
    path = Path(path)
    if path.is_dir():
        arrays = [read_idx(path, name) for name in SUMS]
    else:
        with np.load(path) as file:
            for names in NAMES:
                if set(names) <= set(file.files):
                    arrays = [file[name] for name in names]
                    break
            else:
                raise SystemExit(f"{path} must have the arrays {NAMES[0]}; got {file.files}")
    x, y, x_test, y_test = arrays
    return scaled(x), y.astype(np.int64), scaled(x_test), y_test.astype(np.int64)


def scaled(images):
    return np.ascontiguousarray(images.reshape(len(images), -1), np.float32) / np.float32(255)


def read_idx(directory, name):
    """One file of MNIST's format: two zero bytes, the type (8: bytes), rank, shape, data."""
    plain, packed = directory / name.removesuffix(".gz"), directory / name
    if plain.exists():
        raw = plain.read_bytes()
    elif packed.exists():
        raw = gzip.decompress(packed.read_bytes())
    else:
        raise SystemExit(f"{directory} has neither {plain.name} nor {packed.name}")
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{directory / name} is not in MNIST's format")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def download(directory):
    """MNIST's files, checked."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, md5 in SUMS.items():
        target = directory / name
        if not target.exists():
            with urllib.request.urlopen(MNIST + name) as answer:
                target.write_bytes(answer.read())
        if hashlib.md5(target.read_bytes()).hexdigest() != md5:
            raise SystemExit(f"{target} is not MNIST's file: its MD5 sum differs")
    return directory
