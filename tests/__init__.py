"""Tests of the package as users see it; `helpers` has what several files compute with."""
