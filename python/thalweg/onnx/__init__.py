"""Export to other runtimes: what a model computes when called, as an ONNX graph."""

import typing as _typing

from thalweg.onnx._export import export as export

if not _typing.TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name
    import sys as _sys

    from thalweg import _habits

    __getattr__ = _habits.of_module(
        _sys.modules[__name__],
        {
            **dict.fromkeys(
                ("to_onnx", "convert", "convert_sklearn", "save", "save_model", "write", "dump"),
                "it is export(model, path)",
            ),
            **dict.fromkeys(
                ("load", "load_model", "InferenceSession", "run"),
                "a runtime reads the graph, for instance onnxruntime.InferenceSession(path); "
                "thalweg's own files are those of model.save and nn.Sequential.load",
            ),
            **dict.fromkeys(
                ("checker", "helper", "ModelProto", "numpy_helper", "shape_inference"),
                "it is in the package onnx itself: import onnx",
            ),
        },
    )
