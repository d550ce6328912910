"""Whole training steps, and the optimizer alone."""

import pytest

from .workloads import TRAINING, UPDATE


@pytest.mark.work(*TRAINING)
@pytest.mark.benchmark(disable_gc=True)
def test_training(field_of, work, mode, benchmark):
    field_of(work).turn(mode, benchmark)


@pytest.mark.work(*UPDATE)
@pytest.mark.benchmark(disable_gc=True)
def test_update(field_of, work, mode, benchmark):
    field_of(work).turn(mode, benchmark)
