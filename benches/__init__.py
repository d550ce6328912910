"""Benchmarks of thalweg and its peers; see README.md."""
