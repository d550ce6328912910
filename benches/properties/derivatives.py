"""Training on derivatives with respect to the inputs: how long a step of such a network takes.

torch : gradients of gradients, `torch.autograd.grad(..., create_graph=True)`, the usual way.
jax : `jax.jvp` of `jax.jvp` along each input, or `jax.vjp` for first derivatives by many inputs,
and the gradient of it all, one jitted step.

The equations are Burgers', u_t + u u_x = ν u_xx, and the eikonal one, |∇u|² = 1, which is also a
gradient penalty. Residuals are squared; a step is one of Adam on all points. Gradients must agree
to 1e-3 before the clock starts. Times are medians, measured in turns, in a process that is
confined to as many CPUs as there are threads: JAX has no other way to limit its threads.
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
from thalweg import nn, optim

from .. import machine
from ..table import duration
from .child import fresh
from .report import Options, say, section, verdict

#: Equations, points, and widths of tanh layers.
WORKS = (
    ("Burgers", 100, (2, 20, 20, 20, 1)),
    ("Burgers", 1000, (2, 64, 64, 64, 1)),
    ("eikonal", 256, (10, 128, 128, 1)),
    ("eikonal", 256, (100, 128, 128, 1)),
    ("Burgers", 10000, (2, 128, 128, 128, 128, 1)),
)
NU, LR = 0.01, 1e-3
ROUNDS, QUICK_ROUNDS, SECONDS = 15, 5, 0.2
TARGET = 1.5


@dataclass(frozen=True)
class Row:
    equation: str
    net: str
    points: int
    threads: int
    seconds: float
    torch: float | None
    jax: float | None


def measure(options: Options) -> list[Row]:
    allowed, rows = machine.allowed_cpus(), []
    for which, (equation, points, widths) in enumerate(WORKS[:4] if options.quick else WORKS):
        for threads in sorted({1, options.threads}):
            net = "-".join(map(str, widths))
            say(f"  {equation}, {net}, {points} points, {threads} threads")
            machine.confine(allowed[:threads])
            try:
                rounds = QUICK_ROUNDS if options.quick else ROUNDS
                times = fresh("derivatives", which=which, threads=threads, rounds=rounds)
            finally:
                machine.confine(allowed)
            theirs = times.get("torch"), times.get("jax")
            rows.append(Row(equation, net, points, threads, times["thalweg"], *theirs))
    return rows


def in_child(which: int, threads: int, rounds: int) -> dict[str, float]:
    equation, points, widths = WORKS[which]
    x = np.random.default_rng(0).random((points, widths[0]), dtype=np.float32)
    tw.set_num_threads(threads)
    model = nn.Sequential(*layers(widths, nn.Linear, nn.Tanh))
    loss, of_torch, of_jax = EQUATIONS[equation]
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=LR))
    trainer.backward(x, x)
    peers = {"torch": with_torch(model, x, threads, of_torch), "jax": with_jax(model, x, of_jax)}
    steps: dict[str, Callable[[], Any]] = {"thalweg": lambda: trainer.step(x, x)}
    for name, (gradient, step) in ((n, p) for n, p in peers.items() if p):
        off = np.linalg.norm(gradient - model.flat_gradients)
        if not off < 1e-3 * np.linalg.norm(model.flat_gradients):
            raise SystemExit(f"{name}: its gradient differs by {off:.1e}")
        steps[name] = step
    return in_turns(steps, rounds)


def layers(widths: tuple[int, ...], linear: Any, act: Any) -> list[Any]:
    all_of: list[Any] = []
    for inputs, outputs in itertools.pairwise(widths):
        all_of += [linear(inputs, outputs), act()]
    return all_of[:-1]


def burgers(u: Any, du: Any, d2u: Any, _: Any) -> tuple[float, Any]:
    left_over = du[1] + u * du[0] - NU * d2u[0]
    by = 2 * left_over / len(u)
    by_slopes = np.stack([by * u, by])
    return float(np.mean(left_over**2)), (by * du[0], by_slopes, np.stack([-NU * by]))


def burgers_of_torch(net: Any, points: Any) -> Any:
    import torch

    u = net(points)
    slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    bend = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)[0][:, :1]
    return slope[:, 1:] + u * slope[:, :1] - NU * bend


def burgers_of_jax(net: Any, points: Any) -> Any:
    import jax
    import jax.numpy as jnp

    along = [jnp.zeros_like(points).at[:, k].set(1) for k in range(2)]
    slope = lambda x: jax.jvp(net, (x,), (along[0],))[1]  # noqa: E731
    u_x, bend = jax.jvp(slope, (points,), (along[0],))
    u, u_t = jax.jvp(net, (points,), (along[1],))
    return u_t + u * u_x - NU * bend


def eikonal(u: Any, du: Any, _: Any) -> tuple[float, Any]:
    left_over = np.sum(du**2, axis=0) - 1
    return float(np.mean(left_over**2)), (None, 4 * left_over * du / len(u))


def eikonal_of_torch(net: Any, points: Any) -> Any:
    import torch

    slope = torch.autograd.grad(net(points).sum(), points, create_graph=True)[0]
    return slope.square().sum(1) - 1


def eikonal_of_jax(net: Any, points: Any) -> Any:
    import jax
    import jax.numpy as jnp

    u, back = jax.vjp(net, points)
    return jnp.square(back(jnp.ones_like(u))[0]).sum(1) - 1


EQUATIONS = {
    "Burgers": (nn.DerivativeLoss(burgers, order=(2, 1)), burgers_of_torch, burgers_of_jax),
    "eikonal": (nn.DerivativeLoss(eikonal, order=1), eikonal_of_torch, eikonal_of_jax),
}


def in_turns(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Measure the seconds of a step of each; a round takes as many steps as time permits."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            machine.rest()
            step()
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < SECONDS:
                step()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(each) for name, each in times.items()}


def with_torch(
    model: nn.Sequential, x: Any, threads: int, left_over: Callable[[Any, Any], Any]
) -> tuple[Any, Callable[[], Any]] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    widths = [model.in_features, *(v.shape[0] for k, v in model.state_dict().items() if "w" in k)]
    net = torch.nn.Sequential(*layers(tuple(widths), torch.nn.Linear, torch.nn.Tanh))
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in model.state_dict().items()})
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    points = torch.from_numpy(x.copy()).requires_grad_()

    def differentiate() -> Any:
        loss = left_over(net, points).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(net.parameters()))
        return loss

    def step() -> float:
        loss = differentiate()
        optimizer.step()
        return float(loss.item())

    differentiate()
    # The last bias has no gradient if only derivatives count.
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return np.concatenate([grad.numpy().ravel() for grad in grads]), step


def with_jax(
    model: nn.Sequential, x: Any, left_over: Callable[[Any, Any], Any]
) -> tuple[Any, Callable[[], Any]] | None:
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    flat = [jnp.asarray(v) for v in model.state_dict().values()]
    weights = list(zip(flat[::2], flat[1::2], strict=True))
    points, tree = jnp.asarray(x), jax.tree_util.tree_map

    def net(weights: Any, x: Any) -> Any:
        *first, (weight, bias) = weights
        for w, b in first:
            x = jnp.tanh(x @ w.T + b)
        return x @ weight.T + bias

    def loss(weights: Any) -> Any:
        return jnp.square(left_over(lambda x: net(weights, x), points)).mean()

    def update(weights: Any, m: Any, v: Any, t: Any) -> Any:
        value, g = jax.value_and_grad(loss)(weights)
        m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = LR * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weights = tree(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, m, v)
        return weights, m, v, t + 1, value

    gradient = jax.tree_util.tree_leaves(jax.grad(loss)(weights))
    zeros = tree(jnp.zeros_like, weights)
    state = [tree(jnp.array, weights), zeros, tree(jnp.array, zeros), jnp.float32(1)]
    compiled = jax.jit(update, donate_argnums=(0, 1, 2))

    def step() -> float:
        *state[:], value = compiled(*state)
        return float(value)

    return np.concatenate([np.asarray(g).ravel() for g in gradient]), step


def markdown(rows: list[Row]) -> str:
    ratios = [
        (row, min(t for t in (row.torch, row.jax) if t) / row.seconds)
        for row in rows
        if row.torch or row.jax
    ]
    best = {id(row): ratio for row, ratio in ratios}
    body = [
        [
            row.equation,
            row.net,
            f"{row.points:,}",
            str(row.threads),
            duration(row.seconds),
            *(duration(t) if t else "-" for t in (row.torch, row.jax)),
            f"{best[id(row)]:.2f}" if id(row) in best else "-",
        ]
        for row in rows
    ]
    misses = [
        f"{r.equation}, {r.net}, {r.threads} threads, {ratio:.2f}"
        for r, ratio in ratios
        if ratio < TARGET
    ]
    return section(
        "Derivatives with respect to the inputs",
        [
            "A step of Adam on the residual of an equation, in float32. Burgers' takes values,",
            "first derivatives by both inputs and the second derivative by x;",
            "the eikonal equation, |∇u|² = 1, first derivatives by many inputs, as a gradient",
            "penalty does.",
        ],
        [
            "equation",
            "net",
            "points",
            "threads",
            "thalweg",
            "PyTorch",
            "JAX",
            "best peer ÷ thalweg",
        ],
        body,
        verdict(f"{TARGET:g} times as fast as the best peer", misses, len(ratios)),
    )
