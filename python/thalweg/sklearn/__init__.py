"""scikit-learn estimators that train in the core, with its names, arguments and defaults.

Accessing them needs scikit-learn 1.7 or later.
"""

import typing as _typing

if _typing.TYPE_CHECKING:  # at run time these come from __getattr__ below
    from thalweg.sklearn._classifier import MLPClassifier as MLPClassifier
    from thalweg.sklearn._regressor import MLPRegressor as MLPRegressor

_NAMES = {"MLPClassifier": "_classifier", "MLPRegressor": "_regressor"}


if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

    def __getattr__(name: str) -> object:
        import importlib
        import sys

        from thalweg import _habits

        if name in _NAMES:
            try:
                from sklearn.utils.validation import validate_data  # noqa: F401  # new in 1.6
            except ImportError:
                raise ImportError(
                    f'{name} needs scikit-learn 1.7 or later: pip install "scikit-learn>=1.7"'
                ) from None
            value = getattr(importlib.import_module(f"thalweg.sklearn.{_NAMES[name]}"), name)
            globals()[name] = value  # next time, __getattr__ is not called
            return value
        elsewhere = {
            **dict.fromkeys(
                ("NeuralNetClassifier", "KerasClassifier", "Classifier"), "it is MLPClassifier"
            ),
            **dict.fromkeys(
                ("NeuralNetRegressor", "KerasRegressor", "Regressor"), "it is MLPRegressor"
            ),
        }
        return _habits.of_module(sys.modules[__name__], elsewhere, _NAMES)(name)


def __dir__() -> list[str]:
    import importlib.util

    # Without scikit-learn, `help` and other tools that read every name would fail.
    there = importlib.util.find_spec("sklearn") is not None
    return sorted({*globals(), *(_NAMES if there else ())})
