"""Properties of thalweg that are not one ratio; `python -m benches.properties`, see README.md.

A module per table. Each has

- `measure(options) -> rows`, a list of dataclasses, which tells its progress on stderr,
- `markdown(rows) -> str`, the table, with its target as the last line,
- and, where something needs a process of its own, `in_child(**arguments)`, see child.py.
"""

# In this order they run, the quiet ones first: contention leaves a warm machine.
TABLES = (
    "first_step",
    "memory",
    "shapes",
    "scaling",
    "limit",
    "optimizers",
    "layers",
    "precision",
    "many",
    "fisher",
    "curvature",
    "derivatives",
    "gradcheck",
    "online",
    "estimators",
    "contention",
)
