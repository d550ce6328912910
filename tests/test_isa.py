"""Every instruction set that this CPU has trains alike, to rounding.

``THALWEG_ISA`` is read when a process starts, so each run is a process of its own.
"""

import json
import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import thalweg as tw

SCRIPT = """
    import json
    import sys

    import numpy as np
    import thalweg as tw
    from thalweg import nn, optim

    rng = np.random.default_rng(7)
    curves = {}
    for dtype in ("float32", "float64"):
        # Widths that fill no vector of any instruction set evenly.
        model = nn.Sequential(
            nn.Linear(37, 70), nn.GELU(), nn.Linear(70, 33), nn.Tanh(), nn.Linear(33, 17),
            nn.Sigmoid(), nn.Linear(17, 5), dtype=dtype, seed=4,
        )
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.AdamW(lr=3e-3))
        x, y = rng.standard_normal((301, 37)), rng.integers(0, 5, 301)
        curves[dtype] = trainer.fit(x, y, epochs=10, batch_size=43)["loss"]
        curves[dtype] += model(x[:9]).astype(float).ravel().tolist()
    json.dump({"isa": tw.show_config("dicts")["isa"], "curves": curves}, sys.stdout)
"""


def run(isa, script=SCRIPT):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "THALWEG_ISA": isa},
    )


def test_all_instruction_sets_train_alike():
    available = tw.show_config("dicts")["isas_available"]
    assert "scalar" in available
    results = {}
    for isa in available:
        done = run(isa)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["isa"] == isa  # it was not another one that ran
        results[isa] = found["curves"]
    for curves in results.values():
        for dtype, tolerance in (("float32", 2e-4), ("float64", 1e-11)):
            np.testing.assert_allclose(
                curves[dtype], results["scalar"][dtype], rtol=tolerance, atol=tolerance
            )


#: An instruction set of another kind of CPU, which cannot be a limit here.
FOREIGN = "neon" if platform.machine() in ("x86_64", "AMD64") else "avx2"


@pytest.mark.parametrize("isa", ["mmx", "avx-512", FOREIGN])
def test_an_instruction_set_that_is_not_there_is_an_error_that_names_those_that_are(isa):
    done = run(isa, "import thalweg as tw; tw.nn.Sequential(tw.nn.Linear(1, 1))")
    assert done.returncode != 0
    assert "thalweg.errors.UnsupportedError" in done.stderr
    assert isa in done.stderr
    assert "scalar" in done.stderr
