"""Models of PyTorch's from ours, and ours from PyTorch's, with the same numbers.

Here are `to_torch` and `from_torch`. `_to` makes modules of layers, `_from` layers of modules, and
`_modules` has what PyTorch has not; these three need it to be installed.
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    import torch

    from thalweg import nn


def to_torch(model: "nn.Sequential") -> "torch.nn.Sequential":
    """Make a model of PyTorch's of one of ours.

    Parameters
    ----------
    model : Sequential

    Returns
    -------
    torch.nn.Sequential
        With copies of the parameters and running averages, in the model's dtype, and in evaluation:
        its output is that of ``model(x)``. Its ``train()`` makes it what trains.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ArgumentError
        If it is no model.
    UnsupportedError
        If there is a layer that is not one of thalweg's.
    DivergedError
        If a parameter is infinite or NaN.

    Notes
    -----
    Names and shapes in its ``state_dict()`` are those of `Sequential.state_dict`, beside
    ``num_batches_tracked`` of PyTorch's. A `Residual`, a `Sine`, `FourierFeatures`, `Standardize`
    and a `TabularInput`, which PyTorch has not, are modules of thalweg's: what is pickled of them
    (``torch.save(module, path)``) needs thalweg to be loaded; their ``state_dict()`` does not.
    `Softplus` has ``threshold=40``, for PyTorch's own would change results in float64. Where the
    model begins with an `nn.Embedding`, the module takes int64 codes of shape (n,).

    Examples
    --------
    >>> import numpy as np, torch
    >>> import thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> module, x = tw.torch.to_torch(model), np.ones((3, 2), "float32")
    >>> np.allclose(module(torch.tensor(x)).detach(), model(x), atol=1e-6)
    True
    """
    from thalweg.torch import _to

    return _to.module(model)


def from_torch(module: "torch.nn.Module", *, seed: int = 0) -> "nn.Sequential":
    """Make a model of a model of PyTorch's.

    Parameters
    ----------
    module : torch.nn.Module
        A ``torch.nn.Sequential``, which may have others in it, or one layer. Its layers are those
        of `thalweg.nn`, or what `to_torch` makes of these.
    seed : int, keyword only, default 0
        The seed of `Sequential`, for what is drawn while it trains.

    Returns
    -------
    Sequential
        With copies of the parameters and running averages, in their dtype. A ``Sequential`` in
        another one is not there any more, its layers are in its place, and the names in
        `Sequential.state_dict` count them.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ArgumentError
        If `module` is no module of PyTorch's, or the layers are no model here.
    UnsupportedError
        If there is no such layer here, or it is used as none here can be; the message names it, its
        place, and what there is.
    DtypeError
        If the parameters are neither float32 nor float64, or some this and some that.
    DataError
        If they are not finite, or on the device ``meta``.

    Notes
    -----
    All that changes what a layer computes is carried over, or refused. The exception is the
    ``threshold`` of ``Softplus``, from which on PyTorch's is its input: here it is exact, which is
    up to 2e-9 more. Which parameters are frozen (``requires_grad=False``) is a matter of the
    optimizer here: ``optimizer.add_group("0.*", frozen=True)``.

    Examples
    --------
    >>> import torch
    >>> import thalweg as tw
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.GELU())
    >>> tw.torch.from_torch(torch.nn.Sequential(encoder, torch.nn.Linear(8, 1)))
    Sequential(
      (0): Linear(in_features=2, out_features=8, bias=True)
      (1): GELU(approximate='none')
      (2): Linear(in_features=8, out_features=1, bias=True)
      dtype=float32, seed=0
    )
    """
    from thalweg.torch import _from

    return _from.model(module, seed)


if not _typing.TYPE_CHECKING:  # type checkers would take every name for one that is there
    import sys as _sys

    from thalweg import _habits

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(("to_pytorch", "export", "to_module", "save"), "it is to_torch(model)"),
            **dict.fromkeys(
                ("from_pytorch", "convert", "import_torch", "from_module"),
                "it is from_torch(module)",
            ),
            "load": "from_torch(torch.load(path, weights_only=False)) takes a module from a file",
            **dict.fromkeys(
                ("nn", "optim", "Tensor", "tensor", "from_numpy", "no_grad", "manual_seed"),
                "PyTorch's own are in its package: import torch",
            ),
        },
    )
