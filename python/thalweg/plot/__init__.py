"""Pictures of training runs, checks and diagnostics, drawn with matplotlib."""

from thalweg.plot._continual import task_matrix as task_matrix
from thalweg.plot._continual import tasks as tasks
from thalweg.plot._curvature import spectrum as spectrum
from thalweg.plot._diagnostics import spectral_bias as spectral_bias
from thalweg.plot._gradcheck import gradcheck as gradcheck
from thalweg.plot._optim import path as path
from thalweg.plot._optim import schedule as schedule
from thalweg.plot._training import history as history
from thalweg.plot._training import lr_finder as lr_finder
from thalweg.plot._training import training as training
