"""A description of what a training step will run."""


class Plan:
    """How the core runs a step of one batch size: kernels, tiles, threads.

    Made by `Trainer.plan`. It follows from shapes and from the trainer's options, before any
    number is computed.
    """

    def __init__(self, text: str, workspace_bytes: int) -> None:
        self._text = f"{text}\nworkspace: {workspace_bytes} bytes"
        self._bytes = workspace_bytes

    def explain(self) -> None:
        """Print what will run, and why; the last line gives the memory it takes, in bytes."""
        print(self._text)

    @property
    def workspace_bytes(self) -> int:
        """Memory that a step takes, in bytes, besides model, optimizer and data.

        It includes gradients that wait for their update, as with clipping or accumulation, and what
        SAM keeps. `fit` takes copies of the parameters and of the optimizer's state in addition,
        to undo an epoch that fails.

        Examples
        --------
        >>> import thalweg as tw
        >>> from thalweg import nn, optim
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        >>> trainer.plan(256).workspace_bytes < trainer.plan(2048).workspace_bytes
        True
        """
        return self._bytes

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<Plan: {self._text.splitlines()[0]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
