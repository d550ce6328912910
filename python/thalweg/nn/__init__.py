"""Models, layers and losses, named as in PyTorch."""

import typing as _typing

from thalweg.nn import init as init
from thalweg.nn._layers import CELU as CELU
from thalweg.nn._layers import ELU as ELU
from thalweg.nn._layers import GELU as GELU
from thalweg.nn._layers import SELU as SELU
from thalweg.nn._layers import BatchNorm1d as BatchNorm1d
from thalweg.nn._layers import Concatenate as Concatenate
from thalweg.nn._layers import Dropout as Dropout
from thalweg.nn._layers import Embedding as Embedding
from thalweg.nn._layers import Flatten as Flatten
from thalweg.nn._layers import FourierFeatures as FourierFeatures
from thalweg.nn._layers import Hardsigmoid as Hardsigmoid
from thalweg.nn._layers import Hardswish as Hardswish
from thalweg.nn._layers import Hardtanh as Hardtanh
from thalweg.nn._layers import Identity as Identity
from thalweg.nn._layers import Layer as Layer
from thalweg.nn._layers import LayerNorm as LayerNorm
from thalweg.nn._layers import LeakyReLU as LeakyReLU
from thalweg.nn._layers import Linear as Linear
from thalweg.nn._layers import LogSigmoid as LogSigmoid
from thalweg.nn._layers import Mish as Mish
from thalweg.nn._layers import ReLU as ReLU
from thalweg.nn._layers import ReLU6 as ReLU6
from thalweg.nn._layers import Residual as Residual
from thalweg.nn._layers import RMSNorm as RMSNorm
from thalweg.nn._layers import Sigmoid as Sigmoid
from thalweg.nn._layers import SiLU as SiLU
from thalweg.nn._layers import Sine as Sine
from thalweg.nn._layers import Softplus as Softplus
from thalweg.nn._layers import Softsign as Softsign
from thalweg.nn._layers import Standardize as Standardize
from thalweg.nn._layers import TabularInput as TabularInput
from thalweg.nn._layers import Tanh as Tanh
from thalweg.nn._losses import BCEWithLogitsLoss as BCEWithLogitsLoss
from thalweg.nn._losses import CrossEntropyLoss as CrossEntropyLoss
from thalweg.nn._losses import CustomLoss as CustomLoss
from thalweg.nn._losses import DerivativeLoss as DerivativeLoss
from thalweg.nn._losses import DistillationLoss as DistillationLoss
from thalweg.nn._losses import GaussianNLLLoss as GaussianNLLLoss
from thalweg.nn._losses import HuberLoss as HuberLoss
from thalweg.nn._losses import L1Loss as L1Loss
from thalweg.nn._losses import Loss as Loss
from thalweg.nn._losses import MSELoss as MSELoss
from thalweg.nn._losses import PoissonNLLLoss as PoissonNLLLoss
from thalweg.nn._losses import QuantileLoss as QuantileLoss
from thalweg.nn._sequential import Sequential as Sequential

from thalweg.nn import utils as utils  # isort: skip - it needs Sequential

if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    import sys as _sys

    from thalweg import _habits
    from thalweg.nn._layers._base import OWN as _OWN

    _LOGITS = (
        "models return logits, and {} includes the {}; loss.probabilities(model(x)) returns {}"
    )
    _DENSE = "thalweg is for dense networks"
    _FUNCTION = "write a function (output, target) -> (loss, gradient), see nn.CustomLoss"
    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            "Module": "a model is an nn.Sequential; nn.Residual adds a block to its own input, and "
            "nn.Concatenate puts it beside its own input",
            "ModuleList": "nn.Sequential takes layers: nn.Sequential(*layers)",
            "Softmax": _LOGITS.format("CrossEntropyLoss", "softmax", "probabilities"),
            "LogSoftmax": _LOGITS.format("CrossEntropyLoss", "softmax", "probabilities"),
            "NLLLoss": "CrossEntropyLoss takes logits, and includes the softmax",
            "BCELoss": "BCEWithLogitsLoss takes logits, and includes the logistic function",
            "SmoothL1Loss": "SmoothL1Loss(beta=b) is HuberLoss(delta=b) divided by b",
            "KLDivLoss": "DistillationLoss takes the logits of a teacher",
            "MAELoss": "it is L1Loss",
            "PinballLoss": "it is QuantileLoss",
            "MeanSquaredError": "it is MSELoss",
            "MeanAbsoluteError": "it is L1Loss",
            "BinaryCrossentropy": "it is BCEWithLogitsLoss, which takes logits",
            **dict.fromkeys(
                ("CategoricalCrossentropy", "SparseCategoricalCrossentropy"),
                "it is CrossEntropyLoss, which takes logits, and labels or shares of classes",
            ),
            "BatchNormalization": "it is BatchNorm1d(features)",
            "LayerNormalization": "it is LayerNorm(features)",
            "LazyLinear": "Linear(in_features, out_features) needs the width of its input",
            **dict.fromkeys(
                ("Normalize", "Normalization", "StandardScaler"),
                "nn.Standardize.of(x) is a layer that does so, by the means and deviations of x",
            ),
            **dict.fromkeys(
                ("GLU", "GEGLU", "SwiGLU", "Bilinear", "Softmin", "Softmax2d", "MaxOut"),
                "not supported; a hand-written loop can combine models",
            ),
            **dict.fromkeys(
                ("Concat", "Concatenated", "SkipConnection", "Add", "Parallel"),
                "nn.Residual(*layers) computes x + f(x), and nn.Concatenate(*layers) [x, f(x)]",
            ),
            **dict.fromkeys(("Lambda", "Gaussian", "RBF", "Snake"), f"not supported: {_OWN}"),
            "NoisyLinear": "not supported; to explore, add noise to the actions, or to the "
            "parameters of a copy: model.flat_parameters += noise",
            **dict.fromkeys(
                ("GaussianNoise", "GaussianDropout"),
                "nn.Dropout is the only layer of noise; batches of an iterable can "
                "contain any other",
            ),
            "MLP": "write its layers: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1))",
            "PReLU": "not supported; nn.LeakyReLU(slope) has a fixed slope",
            "SIREN": 'it is Sine, first after Linear(..., init="siren_first"), then init="siren"',
            "Swish": "it is SiLU",
            "Sin": "it is Sine",
            "Siren": 'it is Sine, first after Linear(..., init="siren_first"), then init="siren"',
            "Dense": "it is Linear(in_features, out_features)",
            "Input": "leave it out: in_features of the first Linear is the width of the input",
            "Activation": "each has a class of its own: nn.ReLU(), nn.Tanh(), ...",
            "EmbeddingBag": "Embedding has a vector for each code; TabularInput for each column",
            "functional": "layers and losses are computed by models and trainers",
            **dict.fromkeys(
                ("Parameter", "Bias", "Constant"),
                "parameters belong to a model, see flat_parameters and state_dict(); for free "
                "ones, use the biases of a separate model, nn.Sequential(nn.Linear(1, k)), fed "
                "with zeros",
            ),
            **dict.fromkeys(("FocalLoss", "DiceLoss", "CTCLoss", "ContrastiveLoss"), _FUNCTION),
            **dict.fromkeys(
                ("TripletMarginLoss", "MarginRankingLoss", "MultiMarginLoss"), _FUNCTION
            ),
            **dict.fromkeys(
                ("CosineEmbeddingLoss", "CosineSimilarity", "SoftMarginLoss"), _FUNCTION
            ),
            **dict.fromkeys(("HingeLoss", "Hinge", "HingeEmbeddingLoss", "LogCosh"), _FUNCTION),
            **dict.fromkeys(("BinaryFocalCrossentropy", "LogCoshLoss"), _FUNCTION),
            **dict.fromkeys(("Conv1d", "Conv2d", "Conv2D", "LSTM", "GRU", "RNN"), _DENSE),
            **dict.fromkeys(("Transformer", "MultiheadAttention", "MaxPool2d"), _DENSE),
        },
    )
