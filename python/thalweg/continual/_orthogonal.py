"""A strategy that preserves outputs for earlier samples to first order."""

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from thalweg import _checks
from thalweg._trainer import Trainer
from thalweg.continual import _hidden_units
from thalweg.continual._admission import check_derivatives
from thalweg.continual._project import Projecting, sample
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, are_labels, counted
from thalweg.errors import DataError
from thalweg.nn import CrossEntropyLoss

Outputs: TypeAlias = Literal["label", "all"]


class OGD(Projecting):
    r"""Orthogonal gradient descent: no step along directions that change earlier outputs.

    .. math:: g \leftarrow g - \sum_k (g^T v_k) v_k

    with an orthonormal basis :math:`v_k` of the gradients, with respect to the parameters, of the
    outputs for some samples of each earlier task, at the parameters at the end of that task. To
    first order, these outputs therefore stay as they are. The samples themselves are not kept.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    n_samples : int, default 200
        The number of samples of each task.
    outputs : {"label", "all"}, keyword only
        Which outputs: that of the sample's class (the paper's OGD-GTL), or all. If targets are not
        labels, always all.
    seed : int, keyword only, default 0
        Determines which samples.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    DataError
        When a task ends, if its samples are so large that gradients of outputs overflow.
    UnsupportedError
        If the model has layers that make outputs depend on more than a row: `nn.BatchNorm1d`,
        `nn.Dropout`; otherwise as for `AGEM`.

    Notes
    -----
    Memory and time per step grow with the tasks: K directions of P parameters are K·P numbers of
    the model's dtype (twice during training: here and in the core), and each step reads them twice.
    One task's 200 directions in a 784-100-10 network take 64 MB.

    The update is orthogonal to the basis if the optimizer only scales the gradient as a whole, as
    `optim.SGD` does, also with momentum if that starts with the task. It is not with weight decay,
    or with groups that have a rate of their own (``add_group(..., lr_scale=...)``); frozen groups
    do not matter. `optim.Adam` scales each parameter separately, which loses the guarantee, and
    about a third of what OGD gains over plain training there.

    References
    ----------
    M. Farajtabar, N. Azizan, A. Mott and A. Li, "Orthogonal gradient descent for continual
    learning", AISTATS 2020, arXiv:1910.07104.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    >>> strategy = continual.OGD(trainer, 100)
    """

    gathers = _by_parameter = ("_directions",)
    _does = ("projection", "looks", "plain tasks")

    def __init__(
        self,
        inner: Trainer | Strategy,
        n_samples: int = 200,
        *,
        outputs: Outputs = "label",
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.n_samples: int = _checks.integer("n_samples", n_samples, 1)
        self.outputs: str = _checks.one_of("outputs", outputs, get_args(Outputs))
        self.seed: int = _checks.integer("seed", seed, 0)
        check_derivatives(self.trainer.model, "OGD")
        self._directions: Any = None

    @property
    def directions(self) -> Any:
        """The orthonormal basis, as rows; None before the end of the first task."""
        return self._directions

    def _remembers(self) -> bool:
        return self._directions is not None

    def _hand_over(self, core: Any, rows: int | None) -> None:
        core.project_out(self._directions)

    def end(self, task: Task) -> None:
        """Add the gradients of the task's outputs to the basis."""
        super().end(task)
        loss, labels = self.trainer.loss, None
        x, y = counted(loss, task.x, task.y)
        rows = sample(len(y), self.n_samples, self.seed, task.index)
        if self.outputs == "label" and isinstance(loss, CrossEntropyLoss) and are_labels(y):
            labels = y[rows].astype(np.int64)
        slopes = self._slopes(x[rows], labels)
        if not np.isfinite(slopes).all():
            raise DataError(
                f"gradients of outputs for x of task {task.index} are not finite in"
                f" {self.trainer.model.dtype} arithmetic: x is too large; scale it"
            )
        size = np.linalg.norm(slopes)
        if self._directions is not None:
            known = self._directions.astype(np.float64)
            for _ in range(2):  # once would leave rounding errors of a large component
                slopes -= (slopes @ known.T) @ known
        _, values, basis = np.linalg.svd(slopes, full_matrices=False)
        dtype = self.trainer.model.dtype
        new = basis[values > 10 * np.finfo(dtype).eps * size].astype(dtype)
        parts = [new] if self._directions is None else [self._directions, new]
        self._directions = np.ascontiguousarray(np.concatenate(parts))

    def _slopes(self, x: Any, y: Any) -> Any:
        """Compute the gradients of outputs, one per row, in double precision.

        Frozen parameters stay anyway: what a direction had of them would leave the others' part of
        a step not orthogonal.
        """
        model = self.trainer.model
        samples = model._samples(x, "x")
        outputs, size = model.out_features, model.num_parameters
        some = max(1, (1 << 23) // (outputs * size))  # at most about 64 MB at once
        parts = [np.zeros((0, size))]
        for first in range(0, len(samples), some):
            mine = samples[first : first + some]
            slopes = model._core.jacobian(mine, True)[1].reshape(len(mine), outputs, size)
            if y is not None:
                slopes = slopes[np.arange(len(mine)), y[first : first + some]]
            parts.append(slopes.reshape(-1, size).astype(np.float64))
        found = np.concatenate(parts)
        found[:, _hidden_units.frozen(self.trainer)] = 0
        return found
