"""Conversion of models to and from PyTorch, with the same parameters.

This module has `to_torch`, `from_torch` and `residual`. `_to` converts layers to modules, `_from`
modules to layers, and `_modules` has the layers that PyTorch lacks; these three need PyTorch to be
installed.
"""

import typing as _typing

from thalweg import _habits

if _typing.TYPE_CHECKING:
    import torch

    from thalweg import nn


@_habits.takes("torch.to_torch", {})
def to_torch(model: "nn.Sequential") -> "torch.nn.Sequential":
    """Convert a model to PyTorch.

    Parameters
    ----------
    model : Sequential

    Returns
    -------
    torch.nn.Sequential
        With copies of the parameters and running averages, in the model's dtype, and in evaluation
        mode: its output is that of ``model(x)``. Call ``train()`` to train it.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ArgumentError
        If `model` is not a model.
    UnsupportedError
        If a layer is not one of thalweg's.
    DivergedError
        If a parameter is infinite or NaN.

    Notes
    -----
    Names and shapes in its ``state_dict()`` are those of `Sequential.state_dict`, plus PyTorch's
    ``num_batches_tracked``. `Residual`, `Concatenate`, `Sine`, `FourierFeatures`, `Standardize`
    and `TabularInput`, which PyTorch lacks, are modules of thalweg: loading their pickles
    (``torch.save(module, path)``) needs thalweg; loading their ``state_dict()`` does not, nor does
    what ``torch.jit.script``, ``torch.jit.trace`` and ``torch.export.export`` make of the module.
    `Softplus` has ``threshold=40``, as PyTorch's default would change results in float64. If the
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


@_habits.takes("torch.from_torch", {})
def from_torch(module: "torch.nn.Module", *, seed: int = 0) -> "nn.Sequential":
    """Convert a PyTorch model.

    Parameters
    ----------
    module : torch.nn.Module
        A ``torch.nn.Sequential``, which may contain others, or one layer. Its layers must exist in
        `thalweg.nn`, or be made by `to_torch` or `residual`. A class of your own does not say in
        which order its modules run: pass those that form a chain as a ``torch.nn.Sequential``,
        which holds the same parameters.
    seed : int, keyword only, default 0
        The seed of `Sequential`, for what is drawn while it trains.

    Returns
    -------
    Sequential
        With copies of the parameters and running averages, in their dtype. A nested ``Sequential``
        is replaced by its layers, and the names in `Sequential.state_dict` count these.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ArgumentError
        If `module` is not a PyTorch module, or its layers do not form a valid model.
    UnsupportedError
        If thalweg has no such layer, or does not support its options; the message names the layer,
        its position, and what is supported.
    DtypeError
        If the parameters are neither float32 nor float64, or a mixture of both.
    DataError
        If the parameters are not finite, or on the device ``meta``.

    Warns
    -----
    UserWarning
        If parameters are frozen (``requires_grad=False``): the model trains them, since this is a
        matter of the optimizer here, ``optimizer.add_group("0.*", frozen=True)``.

    Notes
    -----
    Everything that affects what a layer computes is carried over or refused. The exception is the
    ``threshold`` of ``Softplus``, above which PyTorch returns the input: here it is exact, which is
    up to 2e-9 more.

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


@_habits.takes("torch.residual", {})
def residual(*modules: "torch.nn.Module") -> "torch.nn.Sequential":
    r"""Make a block of PyTorch modules whose output is added to its input, :math:`x + f(x)`.

    Parameters
    ----------
    *modules : torch.nn.Module
        As for ``torch.nn.Sequential``. The last output must be as wide as the input.

    Returns
    -------
    torch.nn.Sequential
        A subclass of it, which holds the same modules; `from_torch` makes it an `nn.Residual`.

    Raises
    ------
    ImportError
        If PyTorch is not installed.

    Examples
    --------
    >>> import torch
    >>> import thalweg as tw
    >>> block = tw.torch.residual(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))
    >>> tw.torch.from_torch(torch.nn.Sequential(torch.nn.Linear(2, 8), block))[1]
    Residual(LayerNorm(normalized_shape=(8,), ...), Linear(in_features=8, ..., bias=True))
    """
    from thalweg.torch import _modules

    return _modules.Residual(*modules)


@_habits.takes("torch.concatenate", {})
def concatenate(*modules: "torch.nn.Module") -> "torch.nn.Sequential":
    r"""Make a block of PyTorch modules whose output comes after its input, :math:`(x, f(x))`.

    Parameters
    ----------
    *modules : torch.nn.Module
        As for ``torch.nn.Sequential``; the block takes and returns tensors of shape (n, columns).

    Returns
    -------
    torch.nn.Sequential
        A subclass of it, which holds the same modules; `from_torch` makes it an `nn.Concatenate`.

    Raises
    ------
    ImportError
        If PyTorch is not installed.

    Examples
    --------
    >>> import torch
    >>> import thalweg as tw
    >>> block = tw.torch.concatenate(torch.nn.Linear(2, 8), torch.nn.ReLU())
    >>> tw.torch.from_torch(torch.nn.Sequential(block, torch.nn.Linear(10, 1)))[0]
    Concatenate(Linear(in_features=2, ..., bias=True), ReLU())
    """
    from thalweg.torch import _modules

    return _modules.Concatenate(*modules)


if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(("to_pytorch", "export", "to_module", "save"), "it is to_torch(model)"),
            **dict.fromkeys(
                ("from_pytorch", "convert", "import_torch", "from_module"),
                "it is from_torch(module)",
            ),
            "load": "from_torch(torch.load(path, weights_only=False)) converts one from a file",
            **dict.fromkeys(
                ("nn", "optim", "Tensor", "tensor", "from_numpy", "no_grad", "manual_seed"),
                "it is in PyTorch's own package: import torch",
            ),
        },
    )
