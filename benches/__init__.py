"""Benchmarks of thalweg beside its peers; see README.md."""
