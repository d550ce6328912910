"""Continual learning: tasks that come one after another, and ways not to forget the earlier ones.

A `Scenario` is a sequence of `Task`. A `Strategy` is wrapped around a `Trainer`, or around another
strategy, and learns one task after the other.
"""

from thalweg.continual._strategy import Strategy as Strategy
from thalweg.continual._task import Scenario as Scenario
from thalweg.continual._task import Task as Task
