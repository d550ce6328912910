"""Penalties that couple parameters: Laplace's approximation, task after task."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from thalweg import _arrays, _checks
from thalweg._likelihood import Prepared, likelihood_of, prepare, roots
from thalweg._trainer import Trainer
from thalweg._trainer._penalties import Penalty
from thalweg.continual._admission import check_derivatives
from thalweg.continual._fisher import importance
from thalweg.continual._outputs import outputs_of
from thalweg.continual._quadratic import Consolidating, Flat
from thalweg.continual._strategy import Strategy
from thalweg.continual._task import Task, counted
from thalweg.curvature import kfac_factors
from thalweg.errors import DataError, UnsupportedError
from thalweg.nn._losses._competition import softmax

Structure: TypeAlias = Literal["kron", "full"]
Factors: TypeAlias = Literal["tasks", "summed"]
#: The most parameters for a full matrix: 128 MB of float64.
LARGEST = 4096


class OnlineLaplace(Consolidating):
    r"""Laplace's approximation, task after task: a penalty that couples pairs of parameters.

    .. math:: \frac{\lambda}{2} (\theta - \theta^*)^T \Lambda\, (\theta - \theta^*), \qquad
              \Lambda \leftarrow F_{\text{new}} + \gamma \Lambda

    with the Fisher information F of each task at the parameters :math:`\theta^*` at its end; the
    latest are the anchor. With ``structure="kron"``,

    .. math:: \frac{\lambda}{2} \sum_\ell \sum_k
              \operatorname{tr}\big((W_\ell - W^*_\ell)^T G_{k,\ell} (W_\ell - W^*_\ell) A_{k,\ell}
              \big)

    over the `nn.Linear` layers (each weight with its bias as a last column) and the tasks k, with
    the factors of `curvature.kfac_factors`.

    Parameters
    ----------
    inner : Trainer or Strategy
        What does the training.
    strength : float
        :math:`\lambda`. The Fisher information is a mean over samples, as in `EWC`.
    structure : {"kron", "full"}, keyword only
        Kronecker factors of each layer, or the full matrix. The latter is for at most 4096
        parameters, and for models without `nn.BatchNorm1d` and `nn.Dropout`.
    factors : {"tasks", "summed"}, keyword only
        For ``"kron"``. ``"tasks"``: the sum above; memory and time per step grow with the tasks.
        ``"summed"``: one pair of factors, :math:`\sum_k A_k` and :math:`\sum_k G_k`, whose product
        contains extra terms that mix pairs of tasks; divide :math:`\lambda` by the number of tasks
        for about the same strength. Both decay with :math:`\sqrt\gamma`, so that their product
        decays with :math:`\gamma`.
    decay : float, keyword only, default 1.0
        :math:`\gamma`, from 0 to 1.
    n_samples : int, keyword only, optional
        Compute F from this many samples of each task; all by default.
    seed : int, keyword only, default 0
        Determines which samples.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    UnsupportedError
        If the model is too large for ``"full"``, or has layers that it does not support; if the
        loss is not a likelihood, see `fisher_diagonal`; when a task begins, if it has sample
        weights.

    Notes
    -----
    Where losses are quadratic and F is their Hessian, as in linear regression, ``"full"`` with
    :math:`\gamma = 1` gives the joint solution of all tasks. The diagonal of `EWC` does not.

    With ``"kron"``, parameters of other layers, such as scales of normalizations, use the diagonal
    of F.

    Before each update, the core computes the penalty's gradient by two matrix products for each
    layer (and task), and adds it in the update. That can take longer than the pass itself: about
    :math:`2 (o^2 i + o i^2)` multiplications for o outputs and i inputs of a layer, against
    :math:`3 n o i` for a batch of n.

    References
    ----------
    H. Ritter, A. Botev and D. Barber, "Online structured Laplace approximations for overcoming
    catastrophic forgetting", NeurIPS 2018, arXiv:1805.07810.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import continual, nn, optim
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((2, 50, 3))
    >>> y = x @ rng.standard_normal(3) + rng.standard_normal((2, 50))
    >>> model = nn.Sequential(nn.Linear(3, 1, bias=False), dtype="float64")
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    >>> laplace = continual.OnlineLaplace(trainer, strength=2, structure="full")
    >>> for k in (0, 1):
    ...     history = laplace.fit(continual.Task(x[k], y[k], x[k], y[k], k), epochs=500)
    >>> joint = np.linalg.lstsq(x.reshape(100, 3), y.ravel())[0]
    >>> bool(np.abs(model.flat_parameters - joint).max() < 0.05)  # batches are noise
    True
    """

    gathers = ("_terms",)
    _does = (*Consolidating._does, "plain tasks", "coupled")

    def __init__(
        self,
        inner: "Trainer | Strategy",
        strength: float,
        *,
        structure: Structure = "kron",
        factors: Factors = "tasks",
        decay: float = 1.0,
        n_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(inner, strength)
        likelihood_of(self.trainer.loss)  # refuse unsupported losses before training
        self.structure: str = _checks.one_of("structure", structure, get_args(Structure))
        self.factors: str = _checks.one_of("factors", factors, get_args(Factors))
        self.decay: float = _checks.real("decay", decay, 0, 1, "[]")
        self.n_samples: int | None = _checks.optional_integer("n_samples", n_samples, 1)
        self.seed: int = _checks.integer("seed", seed, 0)
        #: One per task, or a single one; each by layer, as {"A": ..., "G": ...}. "full" has one
        #: layer, "".
        self._terms: list[dict[str, dict[str, Any]]] = []
        model = self.trainer.model
        if structure == "full":
            if model.num_parameters > LARGEST:
                raise UnsupportedError(
                    f'structure="full" supports at most {LARGEST} parameters, but this model has'
                    f' {model.num_parameters}: use structure="kron"'
                )
            check_derivatives(model, 'OnlineLaplace(structure="full")', 'structure="kron"')

    def end(self, task: Task) -> None:
        """Record what must not be forgotten of a task that was learned."""
        super().end(task)
        model, loss = self.trainer.model, self.trainer.loss
        x, y = counted(loss, task.x, task.y)
        options: dict[str, Any] = {
            "n_samples": self.n_samples,
            "classes": outputs_of(self.trainer, task),
            "seed": self.seed,
        }
        diagonal = np.zeros(model.num_parameters)
        if self.structure == "full":
            new = {"": {"G": self._whole(x, y, options)}}
        else:
            found = kfac_factors(model, x, y, loss=loss, **options)
            new = {layer: {"A": pair.A, "G": pair.G} for layer, pair in found.items()}
            rest = self._rest(new)
            if rest.any():
                diagonal = importance(model, x, y, "exact", loss, **options) * rest
        self._terms = self._added(new)
        if self._importance is not None:
            diagonal = diagonal + self.decay * self._importance
        self._set(diagonal.astype(np.float64), self._parameters())

    def _added(self, new: dict[str, dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
        """Return the terms with those of a new task added."""
        decay = self.decay
        if self.structure == "kron":
            if self.factors == "tasks":
                faded = [
                    {layer: {**pair, "G": decay * pair["G"]} for layer, pair in term.items()}
                    for term in self._terms
                ]
                return [*faded, new]
            decay = decay**0.5  # for each of the two factors of a product
        for term in self._terms:
            new = {
                layer: {name: matrix + decay * term[layer][name] for name, matrix in pair.items()}
                for layer, pair in new.items()
            }
        return [new]

    def _whole(self, x: Any, y: Any, options: dict[str, Any]) -> Any:
        """Compute the full Fisher information matrix, in double precision."""
        model, loss = self.trainer.model, self.trainer.loss
        parts = prepare(model, x, y, loss=loss, **options)
        return sum(part.share * self._whole_of(part) for part in parts)

    def _whole_of(self, ready: Prepared) -> Any:
        model, loss = self.trainer.model, self.trainer.loss
        chosen = np.arange(model.out_features) if ready.classes is None else list(ready.classes)
        size = model.num_parameters
        total = np.zeros((size, size))
        some = max(1, (1 << 22) // (model.out_features * size))
        for first in range(0, len(ready.samples), some):
            mine = ready.samples[first : first + some]
            outputs, slopes = model._core.jacobian(mine, True)
            slopes = slopes.astype(np.float64).reshape(len(mine), -1, size)[:, chosen]
            outputs = outputs.astype(np.float64)
            if ready.likelihood == "categorical":
                p = softmax(outputs[:, chosen])
                # E[(e_y - p)(e_y - p)'] is the sum over y of p_y times each outer product.
                slopes = slopes - (p[:, :, None] * slopes).sum(axis=1, keepdims=True)
                slopes *= np.sqrt(p)[:, :, None]
            else:
                slopes *= roots(loss, outputs)[:, chosen, None]
            flat = slopes.reshape(-1, size)
            total += flat.T @ flat
        return total / len(ready.samples)

    def _rest(self, layers: Iterable[str]) -> Any:
        """Mark with 1 the parameters that belong to none of these layers, the others with 0."""
        rest = np.ones(self.trainer.model.num_parameters)
        for weight, bias, rows, cols in self._places(layers).values():
            width = cols - (bias is not None)
            rest[weight : weight + rows * width] = 0
            if bias is not None:
                rest[bias : bias + rows] = 0
        return rest

    def _places(self, layers: Iterable[str]) -> dict[str, tuple[int, int | None, int, int]]:
        """Return the offsets of each layer's weight and bias, and the sizes of its factors."""
        model = self.trainer.model
        if self.structure == "full":
            return {"": (0, None, model.num_parameters, 1)}
        at, places = model.unflatten(np.arange(model.num_parameters)), {}
        for layer in layers:
            weight = at[f"{layer}.weight"]
            bias = int(at[f"{layer}.bias"][0]) if f"{layer}.bias" in at else None
            rows, cols = weight.shape
            places[layer] = int(weight[0, 0]), bias, rows, cols + (bias is not None)
        return places

    @property
    def importance(self) -> Flat | None:
        r"""The diagonal of :math:`\Lambda`; None before the first task has ended."""
        if self._importance is None:
            return None
        found = self._importance.copy()  # of parameters that belong to no factors
        for term in self._terms:
            for layer, (weight, bias, rows, cols) in self._places(term).items():
                row, column = np.diag(term[layer]["G"]), term[layer].get("A")
                both = np.outer(row, [1.0] if column is None else np.diag(column))
                width = cols - (bias is not None)
                found[weight : weight + rows * width] += both[:, :width].ravel()
                if bias is not None:
                    found[bias : bias + rows] += both[:, width]
        return found

    def _check_state(self, state: Any) -> None:
        super()._check_state(state)
        terms, is_full = state["terms"], self.structure == "full"
        needed = {
            layer: {"G": (rows, rows)} | ({} if is_full else {"A": (cols, cols)})
            for layer, (*_, rows, cols) in self._places(terms[0] if terms else ()).items()
        }
        for term in terms:
            found = {layer: dict.fromkeys(pair) for layer, pair in term.items()}
            for layer, pair in term.items():
                for name, matrix in pair.items():
                    numbers = _arrays.finite(_arrays.as_numeric(matrix, name), f"{layer}.{name}")
                    found[layer][name] = numbers.shape
            if not found or found != needed:
                raise DataError("terms of the state are not those of the layers of this model")
        if (state["importance"] is None) != (not terms):
            raise DataError("the state must have both terms and importance, or neither")

    def _mine(
        self, importance: Flat | None, anchor: Flat | None, strength: float
    ) -> Penalty | None:
        if importance is None or not importance.any():
            return None  # nothing is left for the diagonal
        return super()._mine(importance, anchor, strength)

    def _couples(self) -> bool:
        return bool(self._terms)

    def _share(self, penalty: float) -> float:
        theta, together = self.trainer.model.flat_parameters, self.trainer._penalties
        return penalty - sum(
            together.value(place, theta) for place in together.terms if place != self._place
        )

    def _more(self, anchor: Any, strength: float) -> list[Callable[[], None]]:
        core = self.trainer._elementary("penalty")
        if not self._terms:
            return [partial(core.set_coupled, None)]
        dtype = self.trainer.model.dtype

        def vector(matrix: Any) -> Any:
            return None if matrix is None else np.ascontiguousarray(matrix, dtype).ravel()

        blocks = [
            (*place, [(vector(t[layer].get("A")), vector(t[layer]["G"])) for t in self._terms])
            for layer, place in self._places(self._terms[0]).items()
        ]
        return [partial(core.set_coupled, (blocks, anchor.astype(dtype), strength))]
