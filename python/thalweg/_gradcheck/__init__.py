r"""Compares gradients with differences of the function itself, in float64.

For each parameter :math:`\theta_i` the central difference

.. math:: n_i = \frac{f(\theta + h_i e_i) - f(\theta - h_i e_i)}{2 h_i},
          \qquad h_i = \varepsilon^{1/3} \max(1, |\theta_i|)

is compared with the gradient :math:`a_i` under test. The step balances the two errors of such a
difference: truncation, which grows as :math:`h^2`, and the round-off of subtracting two nearly
equal numbers, which grows as :math:`1/h`. (:math:`\varepsilon = 2^{-52}`; Nocedal & Wright 2006,
"Numerical optimization", section 8.1.) Other differences have other orders `p`, and the best step
:math:`\varepsilon^{1/(p+1)}`.

A block of parameters passes if

.. math:: \lVert a - n \rVert \le \max(r \lVert n \rVert, \lVert\delta\rVert)

with the tolerance `r`, 1e-7 by default, and with :math:`\delta_i`, what a difference cannot
resolve. It is estimated without looking at `a`, from the same difference with twice the step: in
:math:`n_i(2h) - n_i(h)` truncation is :math:`2^p - 1` times, and round-off about, what it is in
:math:`n_i(h)`. So near a minimum, where gradients are tiny and differences are not exact enough to
judge them by `r`, the report says "ok to resolution" and not that a right gradient is wrong.

Float32 gradients cannot be checked by float32 differences, whose errors are as large as 1e-3: a
float32 model is checked through its float64 copy, and its own gradient is then compared with that
of the copy.

Rooms: `_blocks` (names and shapes), `_differences` (the formulas), `_report` (the comparison, and
what it says), `_curve` (errors over the step), `_functions`, `_models` and `_hvp` (what is called),
`_task` (a model's loss as a function).
"""

from thalweg._gradcheck._curve import ErrorCurve as ErrorCurve
from thalweg._gradcheck._functions import check_gradient as check_gradient
from thalweg._gradcheck._hvp import check_hvp as check_hvp
from thalweg._gradcheck._models import gradcheck as gradcheck
from thalweg._gradcheck._models import gradgradcheck as gradgradcheck
from thalweg._gradcheck._report import BlockReport as BlockReport
from thalweg._gradcheck._report import GradcheckReport as GradcheckReport
