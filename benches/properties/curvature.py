"""What products with second derivatives cost, compared with a gradient and with PyTorch.

gradient : `Trainer.step` with SGD, including its update: the fastest way to a gradient here.
    Relative to the slower `Trainer.backward`, all ratios would be smaller.
jvp : the outputs' derivative along a direction of the parameters, in training mode.
GNVP, HVP : `curvature.Operator` of either kind, one vector after another at one point.
new point : an HVP after the data have changed, where nothing is cached for the point yet.
new operator : a new operator's first HVP, which also allocates memory from the system, as the first
    step of a trainer does.
PyTorch : forward over reverse, `torch.func.jvp` of `torch.func.grad`, without compilation.

All take turns on each net. PyTorch's product must agree with ours before the clock starts.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import thalweg as tw
from thalweg import curvature, nn, optim

from .. import machine
from ..table import duration
from .report import Options, say, section, verdict

TARGET = 4.0
ROUNDS, QUICK_ROUNDS = 9, 3
TURN = 0.05  # seconds of one turn of one product

#: Widths and rows: one net that fits the cores' own caches, one that does not.
SHAPES = (((64, 128, 128, 10), 128), ((784, 400, 400, 10), 256))
NORMS: dict[str, Callable[[Any, int], list[Any]]] = {
    "plain": lambda of, width: [],
    "BatchNorm": lambda of, width: [of.BatchNorm1d(width)],
    "LayerNorm": lambda of, width: [of.LayerNorm(width)],
}
DTYPES = ("float32", "float64")
AGREE = {"float32": 1e-3, "float64": 1e-10}


@dataclass(frozen=True)
class Row:
    """Seconds of a gradient; products as multiples of it; `peer` as a multiple of our HVP."""

    net: str
    dtype: str
    gradient: float
    jvp: float
    gnvp: float
    hvp: float
    moved: float
    first: float
    peer: float | None


def layers(of: Any, widths: tuple[int, ...], norm: str) -> list[Any]:
    """Make layers (linear, norm, tanh) from thalweg's `nn` or PyTorch's."""
    parts: list[Any] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [of.Linear(inputs, outputs), *NORMS[norm](of, outputs), of.Tanh()]
    return parts[: -1 - len(NORMS[norm](of, widths[-1]))]


def measure(options: Options) -> list[Row]:
    tw.set_num_threads(options.threads)
    rows = []
    for (widths, batch), norm, dtype in itertools.product(SHAPES, NORMS, DTYPES):
        net = f"{'-'.join(map(str, widths))} {norm} B{batch}"
        say(f"  {net} {dtype}")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, widths[0])).astype(dtype)
        y = rng.integers(0, widths[-1], batch)
        model = nn.Sequential(*layers(nn, widths, norm), dtype=dtype, seed=0)
        v = rng.standard_normal(model.num_parameters).astype(dtype)
        loss = nn.CrossEntropyLoss()
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.0))
        hessian = curvature.Operator(model, x, y, loss=loss)
        gauss_newton = curvature.Operator(model, x, y, loss=loss, kind="gauss_newton")
        calls: dict[str, Callable[[], Any]] = {
            "gradient": lambda t=trainer, x=x, y=y: t.step(x, y),
            "jvp": lambda m=model, x=x, v=v: curvature.jvp(m, x, v, training=True),
            "gnvp": lambda o=gauss_newton, v=v: o.matvec(v),
            "hvp": lambda o=hessian, v=v: o.matvec(v),
            "moved": lambda o=hessian, v=v: o.matvec(v),
            "first": lambda m=model, x=x, y=y, v=v, loss=loss: (
                curvature.Operator(m, x, y, loss=loss) @ v
            ),
        }
        if (peer := _peer(model, widths, norm, x, y, v, options.threads)) is not None:
            ours, theirs = calls["hvp"](), peer()
            off = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
            if not off < AGREE[dtype]:
                raise SystemExit(f"{net} {dtype}: PyTorch's product differs by {off:.1e}")
            calls["peer"] = peer

        def move(x: Any = x) -> None:
            x[0, 0] = -x[0, 0]  # operators see the change: they hold no copies

        turns: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
            for name, call in calls.items():
                turns[name].append(_turn(call, move if name == "moved" else None))
                if name == "peer":
                    machine.rest()
        over = {
            name: statistics.median(a / b for a, b in zip(turns[name], turns[base], strict=True))
            for name, base in (
                ("jvp", "gradient"), ("gnvp", "gradient"), ("hvp", "gradient"),
                ("moved", "gradient"), ("first", "gradient"), ("peer", "hvp"),
            )
            if name in turns
        }  # fmt: skip
        gradient = statistics.median(turns["gradient"])
        rows.append(
            Row(
                net,
                dtype,
                gradient,
                over["jvp"],
                over["gnvp"],
                over["hvp"],
                over["moved"],
                over["first"],
                over.get("peer"),
            )
        )
    return rows


def _turn(call: Callable[[], Any], before: Callable[[], None] | None) -> float:
    """Return the median time of a call, after a first one that warms the caches.

    `before` runs before each call, with the clock stopped.
    """
    times: list[float] = []
    call()
    until = time.perf_counter() + TURN
    while len(times) < 3 or time.perf_counter() < until:
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peer(
    model: nn.Sequential, widths: tuple[int, ...], norm: str, x: Any, y: Any, v: Any, threads: int
) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    from torch.func import functional_call, grad, jvp

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    net = torch.nn.Sequential(*layers(torch.nn, widths, norm)).to(getattr(torch, model.dtype.name))
    state = {k: torch.from_numpy(np.array(values)) for k, values in model.state_dict().items()}
    net.load_state_dict(state, strict=False)
    for part in net:  # functorch cannot write to running averages
        if isinstance(part, torch.nn.BatchNorm1d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)
    names = [name for name, _ in net.named_parameters()]
    parameters = {k: p.detach() for k, p in net.named_parameters()}
    ends = np.cumsum([p.numel() for p in parameters.values()])[:-1]
    tangents = {
        k: torch.from_numpy(part.copy()).reshape(parameters[k].shape)
        for k, part in zip(names, np.split(v, ends), strict=True)
    }

    def loss(p: Any) -> Any:
        return torch.nn.functional.cross_entropy(functional_call(net, p, (xs,)), ys)

    def product() -> Any:
        _, found = jvp(grad(loss), (parameters,), (tangents,))
        return np.concatenate([found[k].numpy().ravel() for k in names])

    return product


def markdown(rows: list[Row]) -> str:
    body = [
        [
            row.net,
            row.dtype,
            duration(row.gradient),
            *(f"{over:.2f}x" for over in (row.jvp, row.gnvp, row.hvp, row.moved, row.first)),
            "-" if row.peer is None else f"{row.peer:.1f}x",
        ]
        for row in rows
    ]
    pairs = [
        (f"{name} of {row.net} {row.dtype}, {over:.2f}x", over)
        for row in rows
        for name, over in (
            ("jvp", row.jvp),
            ("GNVP", row.gnvp),
            ("HVP", row.hvp),
            ("HVP at a new point", row.moved),
        )
    ]
    return section(
        "Products with second derivatives",
        [
            "Tanh networks with softmax cross-entropy. Times of products are multiples of that of",
            "a gradient, which is a step of SGD. At a new point, a product also computes what",
            "later ones reuse; a new operator allocates memory as well. The last column is",
            "PyTorch's time divided by thalweg's.",
        ],
        [
            "net",
            "dtype",
            "gradient",
            "jvp",
            "GNVP",
            "HVP",
            "new point",
            "new operator",
            "PyTorch HVP / thalweg",
        ],
        body,
        verdict(
            f"no product takes longer than {TARGET:g} gradients",
            [text for text, over in pairs if over > TARGET],
            len(pairs),
        ),
    )
