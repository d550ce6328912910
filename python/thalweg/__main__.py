"""``python -m thalweg``: the demonstration, and the information for a bug report."""

import argparse
import sys

from thalweg._config import show_config
from thalweg._core import __version__


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m thalweg",
        description="Trains a small network on real handwritten digits from three seeds, checks "
        "its gradient, times a step beside scikit-learn's, and draws what happened. Needs "
        "pip install scikit-learn matplotlib tqdm.",
    )
    parser.add_argument(
        "--config", action="store_true", help="print what a bug report needs, and nothing else"
    )
    parser.add_argument("--version", action="version", version=f"thalweg {__version__}")
    if parser.parse_args(arguments).config:
        show_config()
        return 0
    from thalweg import _demo

    try:
        _demo.main()
    except (ImportError, OSError) as error:  # its text says what to do; a traceback would not help
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
