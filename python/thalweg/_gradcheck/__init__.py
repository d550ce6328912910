r"""Gradient checks: comparing gradients with differences of the function, in float64.

For each parameter :math:`\theta_i` the central difference

.. math:: n_i = \frac{f(\theta + h_i e_i) - f(\theta - h_i e_i)}{2 h_i},
          \qquad h_i = \varepsilon^{1/3} \max(1, |\theta_i|)

is compared with the gradient :math:`a_i` under test. The step balances the two errors of such a
difference: truncation, which grows as :math:`h^2`, and the round-off of subtracting two nearly
equal numbers, which grows as :math:`1/h`. (:math:`\varepsilon = 2^{-52}`; Nocedal & Wright 2006,
"Numerical optimization", section 8.1.) Other differences have another order `p`, for which the best
step is :math:`\varepsilon^{1/(p+1)}`.

A block of parameters fails unless

.. math:: \lVert a - n \rVert \le \max(r \lVert n \rVert, \lVert\delta\rVert)

with the tolerance `r`, 1e-7 by default, and with :math:`\delta_i`, what a difference cannot
resolve. :math:`\delta_i` is estimated without using `a`, from the same difference with twice the
step: compared with :math:`n_i(h)`, :math:`n_i(2h) - n_i(h)` has :math:`2^p - 1` times the
truncation error and about the same round-off.

In a block where this does not say "ok", truncation is told from round-off by differences with four
times the step. Where :math:`n_i(4h) - n_i(2h)` is about :math:`2^p` times
:math:`n_i(2h) - n_i(h)`, both are truncation, and :math:`n_i` becomes Richardson's extrapolation
:math:`n_i(h) - (n_i(2h) - n_i(h)) / (2^p - 1)`; its :math:`\delta_i` is at least the change from
that with twice the step, which is a multiple of the truncation that is left. This matters near a
minimum: there, the gradient becomes small and the third derivatives do not.

A block passes as "ok" if differences resolve `r`, and as "ok to resolution" if they resolve 1% of
the block's gradient, or if that gradient is zero:

- :math:`\lVert\delta\rVert \le \lVert n \rVert / 100`; or
- the function did not move, and :math:`a = 0`; or
- :math:`\lVert a \rVert \le \lVert\delta\rVert / 100` and :math:`\lVert\delta\rVert` is at most
  1e-4 of the gradient of all blocks, as for a bias that a normalization cancels; or
- near a minimum (or a saddle), :math:`\lVert\delta\rVert` is at most 1% of the change of the
  gradient over a step, by second differences of the function. If rounding hides a gradient
  because the function is large, it hides these as well. There, an error also counts as rounding
  up to :math:`4\varepsilon` of the change over 1.

Otherwise it is "unresolved", which is not a pass: nearly any gradient would agree with such
differences. With `atol`, the user has stated what differences resolve, and nothing is unresolved.

Float32 gradients cannot be checked by float32 differences, whose errors are as large as 1e-3. A
float32 model is therefore checked through its float64 copy, and its own gradient is then compared
with that of the copy. Where they differ by more than 2e-6 or so, `_float32` finds out whether this
is a mistake or rounding.

Modules: `_blocks` (names and shapes), `_differences` (the formulas), `_verdict` (the criterion
above), `_kinks` (detecting unknown kinks), `_report` (the comparison and its table), `_curve`
(error against step), `_functions`, `_models` and `_hvp` (the public functions), `_float32` (float32
gradients beside float64 ones), `_task` (a model's loss as a function).
"""

from thalweg._gradcheck._curve import ErrorCurve as ErrorCurve
from thalweg._gradcheck._functions import check_gradient as check_gradient
from thalweg._gradcheck._hvp import check_hvp as check_hvp
from thalweg._gradcheck._models import gradcheck as gradcheck
from thalweg._gradcheck._models import gradgradcheck as gradgradcheck
from thalweg._gradcheck._report import BlockReport as BlockReport
from thalweg._gradcheck._report import GradcheckReport as GradcheckReport
