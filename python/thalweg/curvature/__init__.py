"""The curvature of the loss: products with its Hessian, and what can be learned from them."""

from thalweg.curvature._operator import Operator as Operator
from thalweg.curvature._operator import fisher_vp as fisher_vp
from thalweg.curvature._operator import gnvp as gnvp
from thalweg.curvature._operator import hvp as hvp
from thalweg.curvature._operator import jvp as jvp
