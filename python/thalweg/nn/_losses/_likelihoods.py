"""Losses on numbers: negative log-likelihoods of distributions."""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import ClassVar

import numpy as np

from thalweg import _checks
from thalweg._arrays import Array
from thalweg._description import description
from thalweg.nn._losses._base import CoreLoss, Loss, Reduction


@description
class GaussianNLLLoss(CoreLoss):
    r"""Negative log-likelihood of a normal distribution whose variance is also predicted.

    .. math:: L = \frac{1}{2\,n\,k} \sum_{i,j} \Bigl(\log v_{ij}
              + \frac{(m_{ij} - t_{ij})^2}{v_{ij}} \Bigr),
              \qquad v_{ij} = \max(e^{s_{ij}}, \varepsilon)

    The target `t` has shape (n, k), the output (n, 2k): the first k columns are the means `m`, the
    others the *logarithms* of the variances, `s`. So any output is a valid variance, and none
    overflows. Value and gradient equal those of PyTorch's ``GaussianNLLLoss()(y[:, :k], t, y[:,
    k:].exp())``, which takes the variance as a separate argument. As there, the gradient ignores
    the bound :math:`\varepsilon`: where it applies, the gradient with respect to `s` is not that of
    the loss, which is constant there. Second derivatives are those of this gradient, see
    `thalweg.curvature.Operator`; and `thalweg.gradcheck` fails there.

    The variance of the noise in the targets has to be well above :math:`\varepsilon`. Below it, the
    gradient lowers `s` without end, and the predicted deviation is :math:`\sqrt\varepsilon`,
    whatever the noise: standardize targets in small units, or lower `eps`.

    Parameters
    ----------
    full : bool, keyword only, default False
        Whether to add the constant :math:`\frac12 \log 2\pi`.
    eps : float, keyword only, default 1e-6
        The smallest variance, above 0.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division by `n k`; ``"none"`` gives one number per sample, and is
        only for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    References
    ----------
    Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution";
    for the logarithm Kendall & Gal 2017, "What uncertainties do we need ...?", section 3.2.

    Examples
    --------
    The mean and the deviation that a model predicts for one target:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> x = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> y = x[:, 0] + (0.1 + 0.4 * (x[:, 0] > 0)) * np.random.default_rng(0).standard_normal(400)
    >>> model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
    >>> trainer = tw.Trainer(model, loss=nn.GaussianNLLLoss(), optimizer=optim.Adam(lr=1e-2))
    >>> history = trainer.fit(x, y, epochs=200)
    >>> mean, log_variance = np.split(model([[-0.5], [0.5]]), 2, axis=1)
    >>> deviation = np.sqrt(np.maximum(np.exp(log_variance), trainer.loss.eps))
    >>> bool(deviation[0, 0] < 0.2 < 0.35 < deviation[1, 0])
    True
    """

    _: KW_ONLY
    full: bool = False
    eps: float = 1e-6
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "gaussian_nll"
    _outputs = "convert"
    _call_elsewhere: ClassVar[str] = (
        ". The outputs are means and, in columns beside them, the logarithms of the variances: "
        "PyTorch's loss(mean, target, var) is loss(np.column_stack([mean, np.log(var)]), target)"
    )
    _elsewhere: ClassVar[Mapping[str, str]] = {
        **Loss._elsewhere,
        "predict": "the first half of the outputs are means, the other half logarithms of "
        "variances: mean, log_variance = np.split(model(x), 2, axis=1)",
    }

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        eps = _checks.real("eps", self.eps, 0, closed="()")
        self._set(full=_checks.flag("full", self.full), eps=eps)

    def _numbers(self) -> tuple[float | bool, ...]:
        return self.full, self.eps

    def _target_width(self, outputs: int) -> int:
        return outputs // 2


@description
class PoissonNLLLoss(CoreLoss):
    r"""Negative log-likelihood of counts, as in PyTorch.

    .. math:: L = \frac{1}{n\,k} \sum_{i,j} \bigl(e^{y_{ij}} - t_{ij}\, y_{ij}\bigr)
              \qquad\text{or}\qquad
              \frac{1}{n\,k} \sum_{i,j} \bigl(y_{ij} - t_{ij} \log(y_{ij} + \varepsilon)\bigr)

    The output `y` and the target `t` both have shape (n, k), the target also (n,) if there is one
    output. Targets are counts, so 0 or more. An output is the logarithm of a rate, or with
    ``log_input=False`` a rate; in that case let the model end in a `Softplus`, since the loss is
    not defined for a rate below :math:`-\varepsilon`. A logarithm above 88 (709 in float64) is an
    error, since the rate is too large to be represented.

    For counts `n` seen during an exposure `e`, such as claims in parts of a year, pass the rates
    ``n / e`` as targets and `e`, divided by the batch size, as `sample_weight`, and take
    ``reduction="sum"``: up to a constant and a factor, that is the likelihood of a Poisson
    regression with the offset :math:`\log e`, whose rate of counts is :math:`e\, e^y`. The output
    is the logarithm of the rate for an exposure of 1. (A mean is divided by the exposures of its
    batch, so it is that likelihood only for a batch of all rows; of a single row, `e` cancels.)

    Parameters
    ----------
    log_input : bool, default True
        Whether outputs are logarithms.
    full : bool, default False
        Whether to add :math:`\log t!`, which depends on the target alone, for t > 1, by
        Stirling's approximation :math:`t \log t - t + \frac12 \log 2\pi t`.
    eps : float, keyword only, default 1e-8
        Keeps the logarithm of a rate of 0 finite; above 0.
    reduction : {"mean", "sum", "none"}, keyword only
        ``"sum"`` omits the division; ``"none"`` gives one number per sample, and is only
        for calling the loss directly, see `nn.Loss`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.

    Examples
    --------
    Claims, seen for up to a year each; more of them in the parts of a year that are short:

    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn, optim
    >>> rng = np.random.default_rng(0)
    >>> x, years = rng.standard_normal((4000, 1)), rng.uniform(0.02, 1, 4000)
    >>> claims = rng.poisson(np.sqrt(years) * np.exp(0.3 * x[:, 0] - 1.5))
    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> trainer = tw.Trainer(
    ...     model, loss=nn.PoissonNLLLoss(reduction="sum"), optimizer=optim.Adam(lr=1e-3))
    >>> history = trainer.fit(x, claims / years, sample_weight=years / 4, batch_size=4, epochs=20)
    >>> predicted = years * np.exp(model(x)[:, 0])
    >>> bool(0.98 < predicted.sum() / claims.sum() < 1.02)
    True
    """

    log_input: bool = True
    full: bool = False
    _: KW_ONLY
    eps: float = 1e-8
    reduction: Reduction = "mean"

    _kind: ClassVar[str] = "poisson_nll"
    _outputs = "convert"
    _elsewhere: ClassVar[Mapping[str, str]] = {
        **Loss._elsewhere,
        "predict": "outputs are logarithms of rates, np.exp(model(x)); with log_input=False, rates",
    }

    def __post_init__(self) -> None:
        CoreLoss.__post_init__(self)
        self._set(
            log_input=_checks.flag("log_input", self.log_input),
            full=_checks.flag("full", self.full),
            eps=_checks.real("eps", self.eps, 0, closed="()"),
        )

    def _numbers(self) -> tuple[float | bool, ...]:
        return self.log_input, self.full, self.eps

    def _why_nan(self, name: str, output: Array | None, weight: Array | None) -> str:
        if self.log_input:
            return ""
        found = "an output was negative or not finite"
        if output is not None:
            bad = ~(output + output.dtype.type(self.eps) > 0)
            if weight is not None:
                bad[weight == 0] = False
            if bad.any():
                row, column = np.argwhere(bad)[0]
                found = f"{name}[{row}, {column}] is {output[row, column]:g}"
        return (
            f"{found}, but with log_input=False outputs are rates, from 0 up: let the model end in "
            "nn.Softplus(), or learn the logarithms of rates, with nn.PoissonNLLLoss()"
        )
