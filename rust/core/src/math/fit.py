"""Compute the constants of the vector functions in this directory.

Every list of coefficients in these files is the minimax polynomial of the function that its comment
names, in the norm that this script's `weight` states: found with the Remez exchange on a fine grid
in 50 digits. Needs mpmath. Usage: python fit.py [exp | ln | softplus | erf | gelu | sin | tanh]
"""

import sys

import mpmath as mp

mp.mp.dps = 50


def remez(f, weight, low, high, degree, points=1600, rounds=20):
    """Fit a polynomial to `f` that minimizes the largest |weight·(f − p)| on [low, high].

    Returns the coefficients, the constant one first, and that largest value.
    """
    grid = [
        (low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / points) for i in range(points + 1)
    ]
    values, weights = [f(x) for x in grid], [weight(x) for x in grid]
    nodes = [round(points * k / (degree + 1)) for k in range(degree + 2)]
    for _ in range(rounds):
        # The polynomial whose weighted error is ±level at the nodes, with alternating signs.
        a, b = mp.matrix(degree + 2, degree + 2), mp.matrix(degree + 2, 1)
        for row, i in enumerate(nodes):
            for k in range(degree + 1):
                a[row, k] = grid[i] ** k
            a[row, degree + 1] = (-1) ** row / weights[i]
            b[row] = values[i]
        solution = list(mp.lu_solve(a, b))
        coefficients, level = solution[:-1], abs(solution[-1])
        error = [
            w * (v - mp.polyval(coefficients[::-1], x))
            for x, v, w in zip(grid, values, weights, strict=True)
        ]
        worst = max(map(abs, error))
        # The next nodes: the extremum of each stretch of one sign.
        extrema = []
        for i, e in enumerate(error):
            if extrema and (error[extrema[-1]] > 0) == (e > 0):
                if abs(e) > abs(error[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > degree + 2:
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if worst < level * 1.01 or len(extrema) < degree + 2:
            break
        nodes = extrema
    return coefficients, worst


def show(name, digits, fit):
    """Print a fit as a Rust array."""
    coefficients, error = fit
    print(f"// largest weighted error {mp.nstr(error, 2)}")
    print(f"const {name}: [f64; {len(coefficients)}] = [")
    for c in coefficients:
        print(f"    {float(c)!r}," if digits == 17 else f"    {mp.nstr(c, digits)},")
    print("];")


def exp():
    """Fit q of eʳ = 1 + r + r²·q(r), relative to both eʳ and eʳ − 1."""
    half = mp.log(2) / 2 * (1 + mp.mpf(2) ** -10)  # r is rounded and may pass ½ ln 2

    def q(r):
        return (mp.expm1(r) - r) / r**2 if abs(r) > 1e-12 else mp.mpf(1) / 2 + r / 6

    def weight(r):
        return abs(r) ** 2 / min(mp.exp(r), abs(mp.expm1(r))) + mp.mpf(10) ** -12 if r else 1e-12

    show("Q32", 10, remez(q, weight, -half, half, 5))
    show("Q64", 17, remez(q, weight, -half, half, 10))


def atanh_series(z):
    """Give l of 2·atanh(s) = 2s + s³·l(s²)."""
    r = mp.sqrt(z)
    return (2 * mp.atanh(r) / r - 2) / z if z > 1e-10 else mp.mpf(2) / 3 + 2 * z / 5


def ln():
    """Fit l of 2·atanh(s) = 2s + s³·l(s²) for s up to (√2 − 1)/(√2 + 1), relative."""
    top = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * (1 + mp.mpf(10) ** -6)

    def weight(z):
        return (z + mp.mpf(10) ** -9) / 2

    show("L32", 10, remez(atanh_series, weight, mp.mpf(0), top, 2))
    show("L64", 17, remez(atanh_series, weight, mp.mpf(0), top, 6))


def softplus():
    """Fit the same l for s up to ⅓, where 2·atanh(s) = ln 2, relative."""
    top = mp.mpf(1) / 9 * (1 + mp.mpf(10) ** -6)

    def weight(z):
        return (z + mp.mpf(10) ** -9) / (2 + z * atanh_series(z))

    show("L32", 10, remez(atanh_series, weight, mp.mpf(0), top, 3))
    show("L64", 17, remez(atanh_series, weight, mp.mpf(0), top, 9))


def erf():
    """Fit p of erf(x) = x + x·p(x²) below the cut, and ln erfc(x) above; relative to erf."""

    def p(z):
        r = mp.sqrt(z)
        return mp.erf(r) / r - 1 if z > 1e-20 else 2 / mp.sqrt(mp.pi) - 1

    def log_erfc(x):
        return mp.log(mp.erfc(x))

    for bits, digits, cut, limit, small, big in (
        (32, 10, mp.mpf("0.875"), 4, 5, 6),
        (64, 17, mp.mpf(1), 6, 11, 18),
    ):
        below = remez(p, lambda z: 1 / (1 + p(z)), mp.mpf(0), cut**2, small)
        above = remez(log_erfc, lambda x: mp.erfc(x) / mp.erf(x), cut, mp.mpf(limit), big)
        show(f"SMALL{bits}", digits, below)
        show(f"BIG{bits}", digits, above)


def gelu():
    """Fit w of Φ(−u) = exp(−u²/2)·t·w(t − ½) with t = 1/(1 + c·u), relative."""
    for bits, digits, c, limit, degree in (
        (32, 10, mp.mpf("0.265625"), 14, 8),
        (64, 17, mp.mpf("0.234375"), 39, 22),
    ):

        def w(v, c=c):
            t = v + mp.mpf("0.5")
            u = (1 / t - 1) / c
            return mp.exp(u * u / 2) * mp.erfc(u / mp.sqrt(2)) / 2 / t

        low = 1 / (1 + c * limit) - mp.mpf("0.5")
        fit = remez(w, lambda v: 1 / w(v), low, mp.mpf("0.5"), degree)
        show(f"W{bits}", digits, fit)


def sin():
    """Fit p of sin r = r + r³·p(r²) and q of cos r = 1 − r²/2 + r⁴·q(r²), relative; and cut π/2."""
    top = (mp.pi / 4 * (1 + mp.mpf(2) ** -10)) ** 2  # r may pass π/4, since x·2/π is rounded

    def p(z):
        r = mp.sqrt(z)
        return (mp.sin(r) / r - 1) / z if z > 1e-10 else -mp.mpf(1) / 6 + z / 120

    def q(z):
        r = mp.sqrt(z)
        return (mp.cos(r) - 1 + z / 2) / z**2 if z > 1e-6 else mp.mpf(1) / 24 - z / 720

    tiny = mp.mpf(10) ** -12
    for name, digits, bits, degree in (("32", 10, (13, 13, 13), 2), ("64", 17, (33, 33, 33), 5)):
        sine = remez(p, lambda z: (z + tiny) / (1 + z * p(z)), mp.mpf(0), top, degree)
        cosine = remez(q, lambda z: (z * z + tiny) / mp.cos(mp.sqrt(z)), mp.mpf(0), top, degree)
        show(f"SIN{name}", digits, sine)
        show(f"COS{name}", digits, cosine)
        rest, parts = mp.pi / 2, []
        for count in bits:
            unit = mp.mpf(2) ** (mp.floor(mp.log(rest, 2)) - count + 1)
            parts.append(mp.floor(rest / unit) * unit)
            rest -= parts[-1]
        print(f"const PARTS{name}: [f64; 4] = {[float(x) for x in (*parts, rest)]};")


def tanh():
    """Fit tanh a = Σ cᵢ·(a − m)ⁱ on each quarter of an octave from ⅛ to 10, and on [0, ⅛].

    The error is relative. Rows of the table: m, then the coefficients. Each m is near the middle,
    and of those one where tanh m is almost a single-precision number. Behind the last, tanh is 1.
    """

    def single(x):
        unit = mp.mpf(2) ** (mp.floor(mp.log(x, 2)) - 23)
        return mp.nint(x / unit) * unit

    top = mp.mpf(1) / 8
    inner, _ = remez(
        lambda t: mp.tanh(t) / t if t else mp.mpf(1),
        lambda t: t / mp.tanh(t) if t else mp.mpf(1),
        mp.mpf(0),
        top,
        4,
        points=400,
    )
    pieces = [[mp.mpf(0), mp.mpf(0), *inner]]
    for quarter in range(25):
        octave = mp.mpf(2) ** (quarter // 4 - 3)
        low, high = octave * (4 + quarter % 4) / 4, octave * (5 + quarter % 4) / 4
        near = [(low + high) / 2 + (high - low) * i / 1024 for i in range(-32, 33)]
        m = min(near, key=lambda m: abs(single(mp.tanh(m)) / mp.tanh(m) - 1))
        fit, error = remez(
            lambda t, m=m: mp.tanh(m + t),
            lambda t, m=m: 1 / mp.tanh(m + t),
            low - m,
            high - m,
            5,
            points=400,
        )
        assert error < mp.mpf(2) ** -26, (quarter, error)
        pieces.append([m, *fit])
    pieces += [[pieces[-1][0], mp.mpf(1)] + [mp.mpf(0)] * 5] * (32 - len(pieces))
    print("static PIECES: Table = Table([")
    for row in zip(*pieces, strict=True):
        print("    [")
        for k in range(0, 32, 8):
            print("        " + ", ".join(mp.nstr(c, 9) for c in row[k : k + 8]) + ",")
        print("    ],")
    print("]);")


if __name__ == "__main__":
    for part in sys.argv[1:] or ("exp", "ln", "softplus", "erf", "gelu", "sin", "tanh"):
        globals()[part]()
