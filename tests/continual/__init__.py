"""Tests of `thalweg.continual`."""
