"""What this installation runs on, and how many threads it uses."""

from typing import Any, Literal, overload

from thalweg import _checks, _core, _habits

#: The core has no more; what asks for more gets these, so that a large machine is no special case.
_MAX_THREADS = 256


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
@_habits.takes("show_config", {})
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
    # Unless the core has taken it, or a call before this import was repeated.
    if value and _core.threads_from() not in ("THALWEG_NUM_THREADS", "set_num_threads"):
        import warnings

        warnings.warn(
            f"THALWEG_NUM_THREADS must be an integer of at least 1; got {value[:40]!r}. It is "
            f"ignored, and up to {_core.get_num_threads()} threads are used",
            stacklevel=3,
        )


@_habits.takes("set_num_threads", {})
def set_num_threads(n: int) -> None:
    """Set how many threads the core uses from now on, for all models.

    Parameters
    ----------
    n : int
        At least 1; more than 256 count as 256. Results do not depend on it: they are the same bit
        for bit.

    Raises
    ------
    ArgumentError
        If `n` is not a positive integer.
    """
    _core.set_num_threads(min(_checks.integer("n", n, 1), _MAX_THREADS))


def get_num_threads() -> int:
    """Return how many threads the core uses.

    Initially, this is ``THALWEG_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of CPUs
    that this process may use; of more than 256, it is 256.
    """
    return _core.get_num_threads()
