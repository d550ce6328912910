"""How a model computes: inference, and the two passes of training."""

from typing import Any, Literal, overload

import numpy as np

from thalweg import _arrays, _checks
from thalweg._arrays import Array
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn._sequential._base import SequentialBase


class Calling(SequentialBase):
    """The part of a model that computes."""

    def __call__(self, x: Any) -> Array:
        """Compute the output for the rows of `x`, for use and not for training.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Any number of rows, also 0. Booleans, integers and floats of any width and memory order
            are converted to the model's dtype; an array that has that dtype and is C-contiguous is
            read in place.

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array; the message says what it is.
        """
        # The usual case takes no detour: this call is made thousands of times a second.
        try:
            y = self._predict(x)
        except (ShapeError, DataError):
            rows = self._samples(x, "x")  # the first layer may know better what is wrong
            if rows.shape != (0, self.in_features):
                raise
            return np.empty((0, self.out_features), self._dtype)
        if y is None:
            y = self(self._samples(x, "x"))  # ready now
        return y

    def forward(self, x: Any, training: bool = True) -> Array:
        """Compute the output for the rows of `x` as in training; remember what `backward` needs.

        `BatchNorm1d` takes the statistics of these rows and `Dropout` drops, other elements in each
        call.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            As for a call of the model.
        training : bool, default True
            With False this is the same as calling the model: evaluation, and nothing is
            remembered.

        Returns
        -------
        ndarray, shape (n, out_features), of the model's dtype

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array.
        """
        if training is not True and not _checks.flag("training", training):
            return self(x)
        y = self._core.forward(self._samples(x, "x"))
        if self._shaper is not None:
            self._in_shape = np.shape(x)[1:]
        return y

    @overload
    def backward(
        self, grad_output: Any, *, parameters: bool = True, inputs: Literal[True] = True
    ) -> Array: ...
    @overload
    def backward(
        self, grad_output: Any, *, parameters: bool = True, inputs: Literal[False]
    ) -> None: ...
    def backward(
        self, grad_output: Any, *, parameters: bool = True, inputs: bool = True
    ) -> Array | None:
        """Carry the gradient of a loss back through the last `forward`, by the chain rule.

        Parameters
        ----------
        grad_output : array_like, shape (n, out_features)
            Gradient of the loss with respect to what `forward` returned.
        parameters : bool, keyword only, default True
            Whether gradients of the parameters are wanted. They are a half of the work, which a
            network that another one is trained through can do without.
        inputs : bool, keyword only, default True
            Whether that of the input is: in a wide first layer, a third of that layer's work.

        Returns
        -------
        ndarray, shape (n, in_features), of the model's dtype
            Gradient of the loss with respect to the `x` of that `forward`; None without `inputs`.

        Raises
        ------
        ThalwegError
            If there was no `forward`, or the shape is not that of its output, or nothing is wanted.

        Notes
        -----
        Gradients of the parameters are *added* to `flat_gradients`, as in PyTorch; `zero_grad`
        clears them.
        """
        parameters = _checks.flag("parameters", parameters)
        if not (_checks.flag("inputs", inputs) or parameters):
            raise ArgumentError("parameters and inputs are both False: then there is nothing to do")
        gradient = _arrays.matrix(grad_output, self._dtype, "grad_output")
        try:
            grad = self._core.backward(gradient, parameters, inputs)
        except ArgumentError as error:
            raise ArgumentError(
                f"{error}; gradients by the input in evaluation are diagnostics.jacobian(model, x)"
            ) from None
        if grad is None or self._in_shape is None:
            return grad
        return grad.reshape(-1, *self._in_shape)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self._core.zero_grad()

    def recalibrate(self, x: Any, *, batch_size: int = 256) -> None:
        """Set the running averages of all `BatchNorm1d` to those of the present parameters.

        Needed for parameters that no training pass has used, such as averaged ones
        (`thalweg.Trainer.average_model`): each running average becomes the mean, over the batches,
        of the batches' statistics. PyTorch's ``swa_utils.update_bn``. A model without `BatchNorm1d`
        is left as it is.

        Parameters
        ----------
        x : array_like, shape (n, in_features)
            Samples as in training, n at least 2.
        batch_size : int, keyword only, default 256
            Rows of a batch, at least 2; usually that of the training. A single row that is left
            over is passed over.

        Raises
        ------
        ShapeError, DataError, DtypeError
            If `x` is not such an array. After any error the model is unchanged.
        ArgumentError
            If the batch size is out of range, or there is one row only.
        """
        batch_size = _checks.integer("batch_size", batch_size, 2)
        self._core.recalibrate(self._samples(x, "x"), batch_size)
