"""Continual learning: tasks that come one after another, and ways not to forget the earlier ones.

A `Scenario` is a sequence of `Task`. A `Strategy` is wrapped around a `Trainer`, or around another
strategy, and learns one task after another.
"""

# Where what is:
#
#   tasks         _task, _scenarios, _stream
#   strategies    a file for each family, named after what it does: _ewc, _replay, _masks ...; their
#                 bases are _strategy (of all), _memory (with a buffer), _quadratic (penalties), and
#                 _innermost (with a loss of their own); buffers are in _buffers and _balanced
#   the run       _run asks _passes for the steps, which _batches draws, and _scores and _result
#                 judge; _prequential is for streams, and metrics for what results are worth
#   refusals      before anything is changed: _compatibility (strategy around strategy), _suitable
#                 (with this scenario and trainer), _admission; _protocol (classes of users)
#   files         _state (what strategies gather), _resume (the file), _undo (after an error)

import typing as _typing

from thalweg.continual import metrics as metrics
from thalweg.continual._balanced import BalancedBuffer as BalancedBuffer
from thalweg.continual._baselines import Cumulative as Cumulative
from thalweg.continual._baselines import FromScratch as FromScratch
from thalweg.continual._baselines import Joint as Joint
from thalweg.continual._baselines import Naive as Naive
from thalweg.continual._buffers import Buffer as Buffer
from thalweg.continual._buffers import RecentBuffer as RecentBuffer
from thalweg.continual._buffers import ReservoirBuffer as ReservoirBuffer
from thalweg.continual._distill import LwF as LwF
from thalweg.continual._ewc import EWC as EWC
from thalweg.continual._ewc import OnlineEWC as OnlineEWC
from thalweg.continual._fisher import fisher_diagonal as fisher_diagonal
from thalweg.continual._functional import FROMP as FROMP
from thalweg.continual._laplace import OnlineLaplace as OnlineLaplace
from thalweg.continual._masks import PackNet as PackNet
from thalweg.continual._masks import XdG as XdG
from thalweg.continual._orthogonal import OGD as OGD
from thalweg.continual._prequential import PrequentialScore as PrequentialScore
from thalweg.continual._prequential import prequential as prequential
from thalweg.continual._project import AGEM as AGEM
from thalweg.continual._project import GEM as GEM
from thalweg.continual._quadratic import L2 as L2
from thalweg.continual._quadratic import L2Init as L2Init
from thalweg.continual._renewal import ContinualBackprop as ContinualBackprop
from thalweg.continual._renewal import ShrinkAndPerturb as ShrinkAndPerturb
from thalweg.continual._replay import GDumb as GDumb
from thalweg.continual._replay import NearestMean as NearestMean
from thalweg.continual._replay import Replay as Replay
from thalweg.continual._result import Result as Result
from thalweg.continual._run import run as run
from thalweg.continual._scenarios import from_arrays as from_arrays
from thalweg.continual._scenarios import permuted as permuted
from thalweg.continual._scenarios import rotated as rotated
from thalweg.continual._scenarios import split as split
from thalweg.continual._stepwise import DER as DER
from thalweg.continual._stepwise import ERACE as ERACE
from thalweg.continual._stepwise import DERpp as DERpp
from thalweg.continual._strategy import Strategy as Strategy
from thalweg.continual._stream import stream as stream
from thalweg.continual._synapses import MAS as MAS
from thalweg.continual._synapses import SynapticIntelligence as SynapticIntelligence
from thalweg.continual._task import Scenario as Scenario
from thalweg.continual._task import Task as Task
from thalweg.continual._walk import RWalk as RWalk

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits
    from thalweg.continual import _elsewhere

    # Errors of calls name classes that users know, not their private bases.
    for _kind in [it for it in vars().values() if isinstance(it, type)]:
        for _base in _kind.__mro__:
            if _base.__module__.startswith(__name__) and _base.__name__ not in vars():
                _habits.name_methods("Buffer" if issubclass(_base, Buffer) else "Strategy", _base)
    del _kind, _base

    __getattr__ = _habits.of_module(_sys.modules[__name__], _elsewhere.NAMES)
