"""Schedule-Free AdamW."""

from thalweg.errors import ArgumentError
from thalweg.nn import Sequential
from thalweg.optim._optimizer import Optimizer


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW whose momentum is an average of its own steps; needs no decaying learning rate.

    The model is trained at one point, :math:`y`, and is best at another, :math:`x`: use
    `thalweg.Trainer.average_model`, or `average_model`, to get the learned model. The figures of a
    fit on validation data are those at :math:`y`. Use it without a schedule, except for a warm-up.

    Parameters
    ----------
    lr : float, default 2.5e-3
        Learning rate :math:`\eta \ge 0`; usually larger than AdamW's.
    betas : tuple of two floats, default (0.9, 0.999)
        :math:`\beta_1` in (0, 1) and :math:`\beta_2` in [0, 1). As an attribute, they can only be
        read.
    eps : float, default 1e-8
        :math:`\varepsilon \ge 0`
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled, at :math:`y`.
    weight_lr_power : float, keyword only, default 2
        :math:`p \ge 0`: the power of the rate by which steps are weighted in the average.

    Raises
    ------
    ArgumentError
        If an option is outside its range.

    Notes
    -----
    With the gradient :math:`g` at :math:`y` in step :math:`t = 1, 2, \dots`, and :math:`z = x = y`
    initially

    .. math::

        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
            z \leftarrow z - \eta \left(\frac{g}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon}
            + \lambda y\right) \\
        x &\leftarrow (1 - c)\, x + c z, \qquad c = w_t / \sum_{i \le t} w_i, \quad
            w_i = \bigl(\max_{j \le i} \eta_j\bigr)^p \\
        y &\leftarrow (1 - \beta_1)\, z + \beta_1 x

    The model's parameters are :math:`y`; instead of :math:`z`, the state holds its difference to
    them, ``"z_minus_y"``.

    References
    ----------
    Defazio et al. 2024, "The road less scheduled", arXiv:2405.15682, algorithm 1, and the authors'
    code ``schedulefree``; Optax' ``schedule_free_adamw`` is the same.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 64)[:, np.newaxis]
    >>> model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> optimizer = optim.ScheduleFreeAdamW(lr=0.01)
    >>> trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    >>> history = trainer.fit(x, x**2, epochs=50)
    >>> averaged = trainer.average_model()
    """

    #: Its averages are where the first of `betas` puts them.
    _fixed = ("betas",)

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    weight_lr_power: float

    def __init__(
        self,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        weight_lr_power: float = 2.0,
    ) -> None:
        super().__init__(
            "schedule_free",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            weight_lr_power=weight_lr_power,
        )

    def average_model(self, model: Sequential) -> Sequential:
        """Return the model at :math:`x`, the learned average.

        Parameters
        ----------
        model : Sequential
            The model that this optimizer belongs to. It is not changed.

        Returns
        -------
        Sequential
            A copy. The running averages of `nn.BatchNorm1d` are still those of the trained model
            and do not match the averaged parameters: see `nn.Sequential.recalibrate`.

        Raises
        ------
        ArgumentError
            If no step has been taken yet, or `model` is another one.
        """
        if not self.steps or not self._core.belongs(model._core):
            raise ArgumentError(
                "this optimizer has taken no step with this model, so there is no average of it"
            )
        arrays = self._core.state()[2]
        beta1 = self._arguments["betas"][0]
        averaged = model.flat_parameters - arrays["z_minus_y"] * ((1 - beta1) / beta1)
        return model._with_parameters(averaged)
