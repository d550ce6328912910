r"""Derivatives of a function of one number at 0, from its values near there.

For a difference of order `p` with step `h`, the error is about
:math:`C h^p + R \varepsilon |f| / h`: truncation and round-off. It is smallest near
:math:`h = \varepsilon^{1/(p+1)}`, where it is :math:`\varepsilon^{p/(p+1)}`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

EPS = float(np.finfo(np.float64).eps)

#: Values at some steps, and the steps actually made: theta + h is rounded, too.
Line: TypeAlias = Callable[
    [npt.NDArray[np.float64]], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
]


@dataclass(frozen=True, slots=True)
class Method:
    """A difference formula."""

    name: str
    #: Where it evaluates the function for step 1. The value at 0 is known already.
    points: tuple[float, ...]
    #: Truncation decreases as this power of the step.
    order: int
    #: R: the sum of the absolute weights, since each value may be off by its last bit.
    noise: float

    def step(self, eps: float = EPS) -> float:
        """Return the step that balances the errors for a function like exp at 1."""
        return float(eps ** (1 / (self.order + 1)))

    def __call__(self, line: Line, h: float, value: float) -> float:
        """Return the derivative at 0, where the function is `value`."""
        f, s = line(h * np.array(self.points))
        if self.name == "forward":
            return float((f[0] - value) / s[0])
        near = (f[0] - f[1]) / (s[0] - s[1])
        if self.name == "central":
            return float(near)
        far = (f[2] - f[3]) / (s[2] - s[3])
        return float((4 * near - far) / 3)


Name: TypeAlias = Literal["forward", "central", "fourth"]
METHODS: dict[str, Method] = {
    "forward": Method("forward", (1,), 1, 2.0),
    "central": Method("central", (1, -1), 2, 1.0),
    "fourth": Method("fourth", (1, -1, 2, -2), 4, 1.5),
}

#: What a function may raise where it is undefined, further out than the differences need.
UNDEFINED = (ValueError, ArithmeticError)

#: Step of the complex-step derivative, Im f(θ + ih) / h: nothing is subtracted, so the step may be
#: so small that its square vanishes beside any number. Squire & Trapp 1998, SIAM Review 40:110.
COMPLEX_STEP = 1e-30

#: The first, largest step of Richardson's extrapolation, and how often it is halved.
RICHARDSON_STEP, HALVINGS = 0.1, 9


def richardson(line: Line, h: float, eps: float = EPS) -> tuple[float, float]:
    """Extrapolate central differences to step 0; return the derivative and an error estimate.

    The result is the entry of Romberg's table, in which each column has two orders more than the
    last, that differs least from its neighbours. Ridders 1982, Advances in Engineering Software
    4:75. In addition, the estimate includes rounding of the function's values, relative to which it
    is `eps`, since neighbours may agree by chance.
    """
    best, error = np.nan, np.inf
    before: list[float] = []
    for k in range(HALVINGS + 1):
        f, s = line(h / 2**k * np.array([1.0, -1.0]))
        row = [float((f[0] - f[1]) / (s[0] - s[1]))]
        rounding = eps / 2 * float(np.abs(f).max() / s[0])
        for j, above in enumerate(before):
            power = 4.0 ** (j + 1)
            row.append((power * row[j] - above) / (power - 1))
            spread = max(abs(row[-1] - row[-2]), abs(row[-1] - above), rounding)
            if spread < error:
                best, error = row[-1], spread
        before = row
    return best, max(error, eps * abs(best))
