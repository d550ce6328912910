"""Named initializations of `Linear`.

For a layer with ``in_features = i`` and ``out_features = o`` the weights are drawn from

====================  =================================  ======================================
name                  distribution                       source
====================  =================================  ======================================
``kaiming_uniform``   U(-1/sqrt(i), 1/sqrt(i))           the default of PyTorch's ``Linear``
``kaiming_normal``    N(0, 2/i)                          He et al. 2015, arXiv:1502.01852
``xavier_uniform``    U(-sqrt(6/(i+o)), sqrt(6/(i+o)))   Glorot & Bengio 2010, eq. 16
``xavier_normal``     N(0, 2/(i+o))                      Glorot & Bengio 2010, eq. 12
``lecun_normal``      N(0, 1/i)                          LeCun et al. 1998, "Efficient BackProp"
``siren_first``       U(-1/i, 1/i)                       Sitzmann et al. 2020, the first layer
``siren``             U(-sqrt(6/i)/30, sqrt(6/i)/30)     the others, arXiv:2006.09661, section 3.2
``zeros``             all zero, the bias too             for tests and linear models
====================  =================================  ======================================

where U(a, b) is uniform and N(m, v) is normal with mean m and *variance* v. The bias is drawn from
U(-1/sqrt(i), 1/sqrt(i)), as in PyTorch, whatever the name, except with ``zeros``.

The two for SIREN networks assume `nn.Sine` with its default omega of 30 and coordinates from -1 to
1; see `nn.Sine` for other values of omega. With these biases, as in the authors' code, what the
later sines are taken of has a variance of about 1 + 300/i; set the biases to 0 for the paper's 1.

``kaiming_uniform`` is the default of ``torch.nn.Linear``. ``torch.nn.init.kaiming_uniform_`` called
with its own defaults differs: its range is sqrt(6) times wider.

The numbers come from a counter-based generator: a model's ``seed`` gives the same weights on every
machine, whatever the number of threads.

Assign any other initialization directly, for example orthogonal weights with a gain (Saxe et al.
2014, arXiv:1312.6120), which are common in reinforcement learning:

>>> import numpy as np
>>> from thalweg import nn
>>> model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
>>> rng, state = np.random.default_rng(0), model.state_dict()
>>> for name, gain in {"0.weight": np.sqrt(2), "2.weight": 0.01}.items():
...     u, _, v = np.linalg.svd(rng.standard_normal(state[name].shape), full_matrices=False)
...     state[name][:] = gain * u @ v
>>> model.load_state_dict(state)
>>> weight = model.state_dict()["2.weight"]
>>> np.allclose(weight @ weight.T, 0.01**2 * np.eye(2))
True
"""

import typing as _typing
from typing import Any

from thalweg import _checks
from thalweg.errors import ArgumentError

__all__ = ["NAMES"]


def __dir__() -> list[str]:
    return __all__


_Init: _typing.TypeAlias = _typing.Literal[
    "kaiming_uniform",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
    "lecun_normal",
    "siren_first",
    "siren",
    "zeros",
]
NAMES = _typing.get_args(_Init)

#: Names in Keras and in papers, up to how tails are cut off.
_ALIASES = {
    "he_normal": "kaiming_normal",
    "he": "kaiming_normal",
    "kaiming": "kaiming_normal",
    "he_uniform": "kaiming_normal",  # same variance; kaiming_uniform has a sixth of it
    "glorot_uniform": "xavier_uniform",
    "glorot_normal": "xavier_normal",
    "glorot": "xavier_uniform",
    "xavier": "xavier_uniform",
}

_BY_HAND = (
    "not supported; set weights that you made yourself, as nn.init shows: "
    'model.load_state_dict(model.state_dict() | {"0.weight": ...})'
)


def check(argument: str, name: Any) -> str:
    """Return `name` if there is such an initialization."""
    kind = name[0] if isinstance(name, tuple) and name else name  # with a gain
    if isinstance(kind, str) and kind.lower().rstrip("_") == "orthogonal":
        raise ArgumentError(f"{argument} is {name!r}: {_BY_HAND}")
    if isinstance(name, str) and (meant := _ALIASES.get(name.lower())):
        raise ArgumentError(f'{argument} is {name!r}; the closest one here is "{meant}"')
    return _checks.one_of(argument, name, NAMES)


if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    import sys as _sys

    from thalweg import _habits

    _NEXT = 'the closest one here is nn.Linear(..., init="{}")'
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **{
                f"{name}{end}": f'it is nn.Linear(..., init="{name}")'
                for name in NAMES
                for end in ("", "_")
            },
            **{
                f"{name}{end}": _NEXT.format(meant)
                for name, meant in _ALIASES.items()
                for end in ("", "_")
            },
            # PyTorch's function, called with its own defaults, has a wider range.
            "kaiming_uniform_": _NEXT.format("kaiming_normal"),
            **dict.fromkeys(
                ("orthogonal", "orthogonal_", "normal_", "uniform_", "constant_", "trunc_normal_"),
                _BY_HAND,
            ),
            **dict.fromkeys(
                ("calculate_gain", "gain"), "initializations are chosen by name: nn.init.NAMES"
            ),
        },
    )
