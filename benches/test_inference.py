"""Outputs of an existing network, for one row up to a thousand."""

import pytest

from .workloads import INFERENCE


@pytest.mark.work(*INFERENCE)
@pytest.mark.benchmark(disable_gc=True)
def test_inference(field_of, work, mode, benchmark):
    field_of(work).turn(mode, benchmark)
