"""scikit-learn estimators that train in the core, with its names, arguments and defaults.

Accessing them needs scikit-learn 1.7 or later.
"""

import typing as _typing

if _typing.TYPE_CHECKING:  # at run time these come from __getattr__ below
    from thalweg.sklearn._classifier import MLPClassifier as MLPClassifier
    from thalweg.sklearn._regressor import MLPRegressor as MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

_LAZY = {"MLPClassifier": "._classifier", "MLPRegressor": "._regressor"}


if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    _missing = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("NeuralNetClassifier", "KerasClassifier", "Classifier"), "it is MLPClassifier"
            ),
            **dict.fromkeys(
                ("NeuralNetRegressor", "KerasRegressor", "Regressor"), "it is MLPRegressor"
            ),
        },
        _LAZY,
    )

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            try:
                from sklearn.utils.validation import validate_data  # noqa: F401  # new in 1.6
            except ImportError:
                raise ImportError(
                    f'{name} needs scikit-learn 1.7 or later: pip install "scikit-learn>=1.7"'
                ) from None
        return _missing(name)


def __dir__() -> list[str]:
    import importlib.util

    # Without scikit-learn, `help` and other tools that read every name would fail.
    there = importlib.util.find_spec("sklearn") is not None
    return sorted({*globals(), *(_LAZY if there else ())})
