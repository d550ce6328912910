"""What a training step will run, as text."""


class Plan:
    """How the core runs a step of one batch size: kernels, tiles, threads.

    Made by `Trainer.plan`. It is decided from shapes alone, before any number is computed.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def explain(self) -> None:
        """Print what will run, and why; the last line tells the bytes of memory for it."""
        print(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<Plan: {self._text.splitlines()[0]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
