"""How a model computes: inference, and the two passes of training."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn._sequential._base import SequentialBase


class Calling(SequentialBase):
    """The part of a model that computes."""

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Compute the output for the rows of `x` in evaluation mode.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Any number of rows, including 0. Booleans, integers and floats of any width and memory
            order are converted to the model's dtype; a C-contiguous array of that dtype is read in
            place.

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array; the message says what it is.
        """
        # No detours in the usual case: this may be called thousands of times per second.
        try:
            y = self._predict(x)
        except (ShapeError, DataError):
            rows = self._samples(x, "x")  # the first layer may explain the error better
            if rows.shape != (0, self.in_features):
                raise
            return np.empty((0, self.out_features), self._dtype)
        if y is None:
            y = self(self._samples(x, "x"))  # prepared
        return y

    def forward(self, x: npt.ArrayLike, training: bool = True) -> Array:
        """Compute the output for the rows of `x`; store what `backward` needs.

        As in training, `BatchNorm1d` uses the statistics of these rows, and `Dropout` drops
        different elements in each call.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As for calling the model.
        training : bool, default True
            False for evaluation mode, as when calling the model: `BatchNorm1d` uses its running
            averages, and nothing is dropped. (Calling the model stores nothing, and so is faster.)

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array.
        """
        training = training is True or _checks.flag("training", training)
        rows = self._samples(x, "x")
        y = self._core.forward(rows, training) if training or len(rows) else self(x)
        if self._shaper is not None:
            self._in_shape = np.shape(x)[1:]
        return y

    @overload
    def backward(
        self, grad_output: npt.ArrayLike, *, parameters: bool = True, inputs: Literal[True] = True
    ) -> Array: ...
    @overload
    def backward(
        self, grad_output: npt.ArrayLike, *, parameters: bool = True, inputs: Literal[False]
    ) -> None: ...
    def backward(
        self, grad_output: npt.ArrayLike, *, parameters: bool = True, inputs: bool = True
    ) -> Array | None:
        """Propagate the gradient of a loss back through the last `forward`, by the chain rule.

        Parameters
        ----------
        grad_output : array_like, shape (n, out_features)
            Gradient of the loss with respect to what `forward` returned.
        parameters : bool, keyword only, default True
            Whether to compute gradients with respect to the parameters. They are half of the work,
            and unnecessary for a network through which another one is trained.
        inputs : bool, keyword only, default True
            Whether to compute the gradient with respect to the input, which in a wide first layer
            is a third of that layer's work.

        Returns
        -------
        ndarray, shape (n, in_features), of the model's dtype
            Gradient of the loss with respect to the `x` of that `forward`; None if `inputs` is
            False.

        Raises
        ------
        ThalwegError
            If there was no `forward`, the shape is not that of its output, or nothing is to be
            computed.

        Notes
        -----
        Gradients with respect to the parameters are *added* to `flat_gradients`, as in PyTorch;
        `zero_grad` clears them.
        """
        parameters = _checks.flag("parameters", parameters)
        if not (_checks.flag("inputs", inputs) or parameters):
            raise ArgumentError("parameters and inputs are both False: there is nothing to compute")
        gradient = _arrays.matrix(grad_output, self._dtype, "grad_output")
        try:
            grad = self._core.backward(gradient, parameters, inputs)
        except ArgumentError as error:
            raise ArgumentError(
                f"{error} (model(x) records nothing); a step or a forward pass that failed since "
                "then has left none. For evaluation mode call model.forward(x, training=False) "
                "first"
            ) from None
        if grad is None or self._in_shape is None:
            return grad
        return grad.reshape(-1, *self._in_shape)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self._core.zero_grad()

    def recalibrate(self, x: npt.ArrayLike, *, batch_size: int = 256) -> None:
        """Recompute the running averages of all `BatchNorm1d` for the current parameters.

        Needed for parameters that no training pass has used, such as averaged ones
        (`thalweg.Trainer.average_model`): each running average becomes the mean of the statistics
        of the batches. Corresponds to PyTorch's ``swa_utils.update_bn``. A model without
        `BatchNorm1d` is left unchanged.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Samples as in training, at least 2.
        batch_size : int, keyword only, default 256
            Rows per batch, at least 2; usually as in training. A single leftover row is skipped.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array. After any error, the model is unchanged.
        ArgumentError
            If the batch size is out of range, or there is only one row.
        """
        batch_size = _checks.integer("batch_size", batch_size, 2)
        self._core.recalibrate(self._samples(x, "x"), batch_size)
