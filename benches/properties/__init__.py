"""Properties of thalweg that are not a single ratio; `python -m benches.properties`, see README.md.

One module per table. Each has

- `measure(options) -> rows`, a list of dataclasses; it reports progress on stderr,
- `markdown(rows) -> str`, the table, with its target as the last line,
- and, if something needs a separate process, `in_child(**arguments)`, see child.py.
"""

# They run in this order, the quiet ones first: contention leaves the machine warm.
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
