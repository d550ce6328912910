"""Problems that need no search: their minimum has a formula.

What is linear in its parameters is solved in one call, by the factorizations of `numpy.linalg` in
float64. That is a baseline before any training, and the way to refit the last layer after one.
"""

from thalweg.solve._linear import LinearFit as LinearFit
from thalweg.solve._linear import least_squares as least_squares
from thalweg.solve._linear import ridge as ridge
from thalweg.solve._network import last_layer as last_layer
from thalweg.solve._network import network as network
from thalweg.solve._nonlinear import LeastSquaresFit as LeastSquaresFit
from thalweg.solve._nonlinear import nonlinear_least_squares as nonlinear_least_squares
from thalweg.solve._quadratic import Minimum as Minimum
from thalweg.solve._quadratic import quadratic as quadratic
