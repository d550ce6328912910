"""Graphs of ONNX compute what models do: by its reference implementation, and by ONNX Runtime."""

import math

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .layers import FIRST, LAYERS, WIDTH, OwnLayer, OwnTanh, assert_close, diverged, make

onnx = pytest.importorskip("onnx")

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def reference(proto):
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(proto)


def runtime(proto):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


RUNS = pytest.mark.parametrize("run", [reference, runtime], ids=lambda run: run.__name__)


def computed(run, proto, x):
    """What a graph makes of inputs."""
    with np.errstate(all="ignore"):  # the reference computes what it then leaves out
        (found,) = run(proto).run(None, {proto.graph.input[0].name: x})
    return found


def alone(layer, dtype):
    """A model of one layer, and a `Linear` that does nothing."""
    model = make([layer, nn.Linear(WIDTH, WIDTH, bias=False)], dtype)
    model.load_state_dict(model.state_dict() | {"1.weight": np.eye(WIDTH)})
    return model


@pytest.mark.parametrize("layer", [*LAYERS, nn.CELU(0.3)], ids=repr)
@DTYPES
@RUNS
def test_a_layer(layer, dtype, run, rng):
    model = alone(layer, dtype)
    x = np.concatenate([
        3 * rng.standard_normal((4, WIDTH)),
        np.linspace(-1e-3, 1e-3, WIDTH)[np.newaxis],
        np.linspace(-110, 110, WIDTH)[np.newaxis],  # beyond what exp has in float32
        np.array([[-1e4, -900, -40, 40, 900, 1e4]]),  # and in float64
    ]).astype(dtype)  # fmt: skip
    proto = tw.onnx.export(model)
    for rows in (x, x[:1], x[6:]):
        assert_close(computed(run, proto, rows), model(rows))


@pytest.mark.parametrize(("layer", "x"), FIRST, ids=lambda it: repr(it)[:70])
@DTYPES
@RUNS
def test_a_first_layer(layer, x, dtype, run):
    model = make([layer, nn.Linear(layer.out_features, 3)], dtype)
    x = x if isinstance(layer, nn.Embedding) else x.astype(dtype)
    proto = tw.onnx.export(model)
    for rows in (x, x[:1]):
        assert_close(computed(run, proto, rows), model(rows))


NETS = {
    "plain": [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)],
    "norms, dropout": [
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.2),
        nn.Linear(32, 32, bias=False), nn.LayerNorm(32), nn.SiLU(), nn.Dropout(0.1),
        nn.Linear(32, 2), nn.BatchNorm1d(2),
    ],
    "blocks": [
        nn.Linear(6, 16),
        *2 * [nn.Residual(nn.RMSNorm(16), nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16))],
        nn.Residual(nn.Residual(nn.BatchNorm1d(16)), nn.Dropout(0.5)),
        nn.Linear(16, 2),
    ],
    "a table": [
        nn.TabularInput(6, {5: (3, 4)}, pieces={0: [-1, 0, 1]}), nn.Linear(10, 16), nn.ELU(),
        nn.Linear(16, 2),
    ],
    "coordinates": [
        nn.FourierFeatures(6, 32, sigma=0.3), nn.Linear(64, 16), nn.Sine(2), nn.Linear(16, 2),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
@DTYPES
@RUNS
def test_a_network_that_was_trained(layers, dtype, run, rng):
    x = np.concatenate([rng.standard_normal((80, 5)), np.arange(80)[:, np.newaxis] % 3], axis=1)
    x = x.astype(dtype)
    model = nn.Sequential(*layers, dtype=dtype, seed=1)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))
    trainer.fit(x, x[:, 0] * x[:, 1] > 0, epochs=3, batch_size=20)
    proto = tw.onnx.export(model)
    before = model(x)
    for rows in (1, 7, 80):
        assert_close(computed(run, proto, x[:rows]), before[:rows])
    trainer.step(x, x[:, 0] > 0)  # the graph keeps its numbers
    assert_close(computed(run, proto, x), before)
    assert not np.allclose(model(x), before, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "outputs", "kinds"),
    [
        (nn.CrossEntropyLoss(), 4, ["Gemm", "Softmax"]),
        (nn.CrossEntropyLoss([1, 2, 3, 4], heads=(1, 3)), 4, ["Gemm", "Softmax"]),
        (nn.CrossEntropyLoss(active=[0, 3]), 4, ["Gemm", "Add", "Softmax"]),
        (nn.BCEWithLogitsLoss(pos_weight=2), 1, ["Gemm", "Sigmoid"]),
        (nn.BCEWithLogitsLoss(), 4, ["Gemm", "Sigmoid"]),
    ],
    ids=repr,
)
@DTYPES
@RUNS
def test_probabilities(loss, outputs, kinds, dtype, run, rng):
    model = nn.Sequential(nn.Linear(3, outputs), dtype=dtype)
    x = rng.standard_normal((7, 3)).astype(dtype) * np.array([[1]] * 6 + [[1e4]], dtype)
    proto = tw.onnx.export(model, loss=loss)
    assert [node.op_type for node in proto.graph.node] == kinds
    assert_close(computed(run, proto, x), loss.probabilities(model(x)))


@pytest.mark.parametrize(
    ("loss", "rates"), [(nn.PoissonNLLLoss(), np.exp), (nn.PoissonNLLLoss(log_input=False), abs)]
)
@DTYPES
@RUNS
def test_rates(loss, rates, dtype, run, rng):
    """What is a logarithm is one no longer; what is a rate already stays so."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Softplus(), dtype=dtype)
    x = rng.standard_normal((7, 3)).astype(dtype)
    assert_close(computed(run, tw.onnx.export(model, loss=loss), x), rates(model(x)))


@RUNS
def test_the_small_numbers_of_a_gelu_are_right_in_float64(run):
    """Of x Φ(x) on the left, to rounding of x² as an exponent; and where Φ is 0 or 1."""
    model = nn.Sequential(nn.GELU(), nn.Linear(1, 1, bias=False), dtype="float64")
    model.load_state_dict({"1.weight": [[1.0]]})
    x = np.linspace(-37, 10, 4701)[:, np.newaxis]
    expected = x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2
    found = computed(run, tw.onnx.export(model), x)
    with np.errstate(invalid="ignore"):  # 0 / 0
        error = np.abs(found / expected - 1)
    assert (error[x != 0] < 2e-15 + 3e-16 * x[x != 0] ** 2).all()
    ends = np.array([[-1e300], [-1e4], [0.0], [1e4], [1e300]])
    assert computed(run, tw.onnx.export(model), ends).ravel().tolist() == [0, 0, 0, 1e4, 1e300]


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss()], ids=repr)
def test_a_loss_whose_outputs_are_the_predictions_changes_nothing(loss):
    """So that a script can export whatever was trained."""
    model = nn.Sequential(nn.Linear(3, 4))
    assert tw.onnx.export(model, loss=loss) == tw.onnx.export(model)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.GaussianNLLLoss(), r"turns outputs into probabilities.*got GaussianNLLLoss"),
        (nn.CrossEntropyLoss, r"got the class CrossEntropyLoss; pass an instance"),
        ("cross_entropy", r"did you mean nn\.CrossEntropyLoss"),
        (nn.CrossEntropyLoss(heads=(2, 3)), "heads have 5 columns"),
    ],
    ids=repr,
)
def test_another_loss_is_an_error(loss, message, tmp_path):
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match=message):
        tw.onnx.export(model, tmp_path / "model.onnx", loss=loss)
    assert not list(tmp_path.iterdir())


def test_a_softmax_of_one_output_is_an_error():
    with pytest.raises(tw.ArgumentError, match=r"single output is always 1.*nn\.BCEWithLogitsLoss"):
        tw.onnx.export(nn.Sequential(nn.Linear(3, 1)), loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.LeakyReLU(), "LeakyRelu"),
        (nn.ELU(), "Elu"),
        (nn.CELU(), "Celu"),
        (nn.SELU(), "Selu"),
        (nn.Softsign(), "Softsign"),
        (nn.Hardsigmoid(), "HardSigmoid"),
        (nn.Hardswish(), "HardSwish"),
        (nn.LayerNorm(WIDTH), "LayerNormalization"),
        (nn.LayerNorm(WIDTH, elementwise_affine=False), "LayerNormalization"),
        (nn.BatchNorm1d(WIDTH), "BatchNormalization"),
        (nn.Hardtanh(), "Clip"),
        (OwnTanh(), "Tanh"),
    ],
    ids=lambda it: repr(it)[:40],
)
def test_float32_has_the_operators_of_the_standard(layer, kind):
    proto = tw.onnx.export(nn.Sequential(nn.Linear(WIDTH, WIDTH), layer))
    assert [node.op_type for node in proto.graph.node] == ["Gemm", kind]


def shape_of(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@DTYPES
def test_what_a_graph_says_of_itself(dtype):
    block = nn.Residual(nn.Linear(5, 5), nn.ReLU())
    model = nn.Sequential(nn.Linear(3, 5), block, nn.Linear(5, 2), dtype=dtype)
    proto = tw.onnx.export(model, input_name="x", output_name="y", doc="For a test.")
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.producer_name, proto.producer_version) == ("thalweg", tw.__version__)
    assert proto.doc_string == "For a test."
    assert proto.ir_version == 8
    assert [(it.domain, it.version) for it in proto.opset_import] == [("", 17)]
    (given,), (wanted,) = proto.graph.input, proto.graph.output
    assert (given.name, shape_of(given)) == ("x", ["batch", 3])
    assert (wanted.name, shape_of(wanted)) == ("y", ["batch", 2])
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert given.type.tensor_type.elem_type == wanted.type.tensor_type.elem_type == kind
    arrays = {it.name: onnx.numpy_helper.to_array(it) for it in proto.graph.initializer}
    state = model.state_dict()
    assert set(arrays) == set(state)
    for name, values in state.items():
        assert arrays[name].dtype == dtype
        np.testing.assert_array_equal(arrays[name], values)
    names = [node.name for node in proto.graph.node]
    assert names == ["0.Gemm", "1.0.Gemm", "1.1.Relu", "1.Add", "2.Gemm"]


@pytest.mark.parametrize(("given", "wanted"), [("0.weight", "0.Gemm"), ("1.Relu", "0.bias")])
def test_names_that_are_taken_are_the_users(given, wanted, rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = rng.standard_normal((5, 3)).astype(np.float32)
    proto = tw.onnx.export(model, input_name=given, output_name=wanted)
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == (given, wanted)
    assert_close(computed(reference, proto, x), model(x))


def test_codes_are_integers():
    proto = tw.onnx.export(nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 1)))
    (given,) = proto.graph.input
    assert shape_of(given) == ["batch"]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.INT64


@pytest.mark.parametrize("code", [-1, -3, 3])
@pytest.mark.parametrize("table", [True, False], ids=["TabularInput", "Embedding"])
@RUNS
def test_a_code_that_is_none_is_an_error(run, table, code):
    """Also -1, that of unknown categories in pandas, which would be the last code to ONNX."""
    first = nn.TabularInput(1, {0: (3, 2)}) if table else nn.Embedding(3, 2)
    model = nn.Sequential(first, nn.Linear(2, 1))
    codes = np.array([[0], [code]], np.float32) if table else np.array([0, code])
    with pytest.raises(tw.DataError):
        model(codes)
    # Its class depends on the runtime.
    with pytest.raises(Exception, match=r"out of (data )?bounds"):
        computed(run, tw.onnx.export(model), codes)


@RUNS
def test_images_go_in_as_they_are(run, rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = rng.standard_normal((7, 3, 4)).astype(np.float32)
    rows = tw.onnx.export(model)
    assert shape_of(rows.graph.input[0]) == ["batch", 12]
    assert_close(computed(run, rows, x.reshape(7, 12)), model(x))
    images = tw.onnx.export(model, input_shape=(3, 4))
    assert shape_of(images.graph.input[0]) == ["batch", 3, 4]
    assert_close(computed(run, images, x), model(x))


def test_a_folded_model_has_fewer_nodes(rng):
    model = make([nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()])
    proto = tw.onnx.export(model.fold())
    assert [node.op_type for node in proto.graph.node] == ["Gemm", "Relu"]
    x = rng.standard_normal((5, 3))
    assert_close(computed(reference, proto, x), model(x))


def test_a_file_is_what_is_returned(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    path = tmp_path / "model.onnx"
    path.write_text("an earlier one")
    proto = tw.onnx.export(model, path)
    assert onnx.load(path) == proto == tw.onnx.export(model, str(path))
    assert [it.name for it in tmp_path.iterdir()] == ["model.onnx"]


def pipeline():
    return pytest.importorskip("sklearn.pipeline").make_pipeline(tw.sklearn.MLPRegressor())


MODEL = nn.Sequential(nn.Linear(3, 2))
BAD = [
    (lambda: ("a model",), {}, ValueError, "model must be an nn.Sequential"),
    (
        lambda: (tw.Trainer(MODEL, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1)),), {},
        tw.ArgumentError, r"must be an nn\.Sequential; got a Trainer: pass its \.model$",
    ),
    (
        lambda: (pipeline(),), {},
        tw.ArgumentError, r"got a Pipeline: pass pipeline\[-1\]\.model_ .*nn\.Standardize\(",
    ),
    (lambda: ({"a": np.ones(99)},), {}, tw.ArgumentError, r"nn\.Sequential; got a dict$"),
    (lambda: (MODEL,), {"loss": {"a": 1}}, tw.ArgumentError, r"PoissonNLLLoss\(\); got a dict$"),
    (lambda: (diverged(),), {}, tw.DivergedError, r"0\.weight.* is -?inf"),
    (
        lambda: (nn.Sequential(nn.Linear(3, 2), nn.Residual(nn.ReLU(), OwnLayer())),),
        {}, tw.UnsupportedError, r"layer 1\.1: OwnLayer cannot be exported to ONNX",
    ),
    (lambda: (MODEL,), {"input_name": ""}, tw.ArgumentError, "input_name must be a name; got ''"),
    (lambda: (MODEL,), {"output_name": 3}, tw.ArgumentError, "output_name must be a name; got 3"),
    (
        lambda: (MODEL,), {"input_name": "x", "output_name": "x"},
        tw.ArgumentError, "must differ; both are 'x'",
    ),
    (lambda: (MODEL,), {"doc": 1}, tw.ArgumentError, "doc must be text; got 1"),
    (
        lambda: (MODEL,), {"input_shape": (3, 1)},
        tw.ArgumentError, r"begin with nn\.Flatten\(\).*rows of 3",
    ),
    (
        lambda: (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),), {"input_shape": (2, 3)},
        tw.ShapeError, r"\(2, 3\) has 6 numbers; the model takes 4",
    ),
    (
        lambda: (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),), {"input_shape": (-2, -2)},
        tw.ArgumentError, r"input_shape\[0\] must be an integer >= 1",
    ),
    (lambda: (MODEL,), {"opset_version": 18}, TypeError, "it is 17; onnx.version_converter"),
    (lambda: (MODEL,), {"input_names": ["x"]}, TypeError, "it is input_name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "options", "error", "message"), BAD, ids=(case[-1] for case in BAD)
)
def test_what_cannot_be_exported_leaves_files_alone(given, options, error, message, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("an earlier one")
    with pytest.raises(error, match=message):
        tw.onnx.export(*given(), path, **options)
    assert path.read_text() == "an earlier one"
    assert [it.name for it in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_too_large_for_a_file_is_an_error(monkeypatch):
    monkeypatch.setattr("thalweg.onnx._graph._MOST_BYTES", 31)
    with pytest.raises(tw.UnsupportedError, match=r"32 bytes.* room for 31"):
        tw.onnx.export(MODEL)


def test_a_folder_that_is_not_there_is_an_error_of_the_users_path(tmp_path):
    for what in (True, 3, b"model.onnx"):
        with pytest.raises(tw.ArgumentError, match=r"^path must be text or a path; got"):
            tw.onnx.export(MODEL, what)
    path = tmp_path / "nowhere" / "model.onnx"
    with pytest.raises(FileNotFoundError, match=r"model\.onnx'$"):
        tw.onnx.export(MODEL, path)
