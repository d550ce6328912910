"""``python -m thalweg``: the demonstration."""

from thalweg._demo import main

if __name__ == "__main__":
    main()
