"""The peers, if they are installed."""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .runs import gradients


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in this
    yield torch
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def optax():
    """Gradients, and Optax' paths, see `optax_runs`."""
    if importlib.util.find_spec("optax") is None:
        pytest.skip("Optax is not installed")
    g = gradients(np.random.default_rng(5))
    search = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "parity.optax_runs"],
        input=pickle.dumps(g), capture_output=True, timeout=600,
        env={**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": search},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return g, pickle.loads(done.stdout)
