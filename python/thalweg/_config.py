"""What this installation runs on, and how many threads it uses."""

from typing import Any, Literal

from thalweg import _checks, _core


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Show the instruction sets, kernels and threads in use, as needed for bug reports.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print it or to return it as a dict, as in NumPy.

    Returns
    -------
    dict or None
        With ``"dicts"``: ``version``, ``isa`` (the instruction set in use), ``isas_available``,
        ``isa_cap`` (the value of ``THALWEG_ISA``, None if not set), ``kernels`` by dtype,
        ``precisions`` (those that a `Trainer` can have here), ``threads``, ``threads_from`` (where
        that number comes from) and ``cpus``.

    Raises
    ------
    ArgumentError
        If the mode is unknown.
    """
    _checks.one_of("mode", mode, ("stdout", "dicts"))
    config = _core.config()
    if mode == "dicts":
        return config
    width = max(map(len, config))
    for key, value in config.items():
        print(f"{key:<{width}}  {value}")
    return None


def check_environment() -> None:
    """Warn if the environment sets an invalid number of threads, which is then ignored."""
    import os

    value = os.environ.get("THALWEG_NUM_THREADS", "")
    first = value.split(",")[0].strip()
    if value and not (first.isascii() and first.isdigit() and int(first) > 0):
        import warnings

        warnings.warn(
            f"THALWEG_NUM_THREADS must be an integer >= 1; got {value!r}. It is ignored, and up "
            f"to {_core.get_num_threads()} threads are used",
            stacklevel=3,
        )


def set_num_threads(n: int) -> None:
    """Set how many threads the core uses from now on, for all models.

    Parameters
    ----------
    n : int
        At least 1. Results do not depend on it: they are the same bit for bit.

    Raises
    ------
    ArgumentError
        If `n` is not a positive integer.
    """
    _core.set_num_threads(_checks.integer("n", n, 1))


def get_num_threads() -> int:
    """Return how many threads the core uses.

    Initially, this is ``THALWEG_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of CPUs
    that this process may use.
    """
    return _core.get_num_threads()
