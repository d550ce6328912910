"""Every error that thalweg raises on purpose.

All derive from `ThalwegError`, so one ``except`` catches them. Each also derives from the built-in
exception that Python programmers would expect, so code that catches ``ValueError`` keeps working.
After any of them, the model is as it was before the call, except that an error in a callback keeps
what the fit has learned, as Ctrl-C does.
"""


class ThalwegError(Exception):
    """Base of all errors that thalweg raises on purpose."""


class ShapeError(ThalwegError, ValueError):
    """An array has the wrong rank, width or length; the message names both shapes."""


class DataError(ThalwegError, ValueError):
    """The data cannot be trained on: NaN, infinities, no rows, labels out of range."""


class ArgumentError(ThalwegError, ValueError):
    """An option is invalid; the message names it, its value and what is accepted."""


class DtypeError(ThalwegError, TypeError):
    """An array has an unsuitable dtype; the message says how to convert it."""


class DivergedError(ThalwegError, ArithmeticError):
    """The loss became infinite or NaN in training: usually the learning rate is too large.

    Or the loss is not defined for an output, such as a negative rate; the message then says so.
    Also raised if parameters or the optimizer's state become so, because gradients are too large.
    Model and optimizer are as they were before the call, e.g. a whole `Trainer.fit`.

    Attributes
    ----------
    index : int or None
        The place of the trainer in `thalweg.train_many`; None elsewhere.
    """

    index: int | None = None


class UnsupportedError(ThalwegError, RuntimeError):
    """What was asked is not supported by this machine or version; the message says what is."""
