"""The curvature of the loss: products with its Hessian, and what can be learned from them."""

from thalweg.curvature._eigenvalues import Eigenpairs as Eigenpairs
from thalweg.curvature._eigenvalues import top_eigenvalues as top_eigenvalues
from thalweg.curvature._kfac import KroneckerFactors as KroneckerFactors
from thalweg.curvature._kfac import kfac_factors as kfac_factors
from thalweg.curvature._monitor import StabilityMonitor as StabilityMonitor
from thalweg.curvature._operator import Operator as Operator
from thalweg.curvature._operator import fisher_vp as fisher_vp
from thalweg.curvature._operator import gnvp as gnvp
from thalweg.curvature._operator import hvp as hvp
from thalweg.curvature._operator import jvp as jvp
from thalweg.curvature._spectrum import Estimate as Estimate
from thalweg.curvature._spectrum import SpectralDensity as SpectralDensity
from thalweg.curvature._spectrum import logdet as logdet
from thalweg.curvature._spectrum import spectral_density as spectral_density
from thalweg.curvature._spectrum import trace as trace
from thalweg.curvature._stability import Stability as Stability
from thalweg.curvature._stability import max_stable_lr as max_stable_lr
