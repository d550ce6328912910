"""Models that become PyTorch's, and PyTorch's that become ours, with the same numbers."""

import copy
import io
from collections import OrderedDict

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .layers import FIRST, LAYERS, TABLE, WIDTH, OwnLayer, OwnTanh, assert_close, diverged, make

torch = pytest.importorskip("torch")
theirs = torch.nn

#: Layers, and inputs: seven rows.
MODELS = [
    ([layer, nn.Linear(WIDTH, 3)], 3 * np.sin(np.arange(42.0).reshape(7, 6))) for layer in LAYERS
]
MODELS += [([layer, nn.Linear(layer.out_features, 3)], x) for layer, x in FIRST]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def tensor(x, dtype="float64"):
    return torch.tensor(x if x.dtype.kind == "i" else x.astype(dtype))


def numpy(x):
    return x.detach().numpy()


def assert_equal_states(ours, module):
    state = {n: v for n, v in module.state_dict().items() if "num_batches" not in n}
    assert list(state) == list(ours)
    for name, values in ours.items():
        np.testing.assert_array_equal(state[name].numpy(), values, err_msg=name, strict=True)


@pytest.mark.parametrize(("layers", "x"), MODELS, ids=[repr(m[0][0])[:60] for m in MODELS])
@DTYPES
def test_there_and_back(layers, x, dtype):
    """Layers and numbers exactly, outputs to rounding."""
    model = make(layers, dtype)
    module = tw.torch.to_torch(model)
    assert_equal_states(model.state_dict(), module)
    assert not any(part.training for part in module.modules())
    x = tensor(x, dtype)
    assert_close(numpy(module(x)), model(x))
    back = tw.torch.from_torch(module, seed=9)
    assert (back.layers, back.dtype, back.seed) == (model.layers, model.dtype, 9)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], values, strict=True)


@pytest.mark.parametrize(("layers", "x"), MODELS, ids=[repr(m[0][0])[:60] for m in MODELS])
@DTYPES
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_every_module_can_be_compiled_and_computes_the_same(layers, x, dtype):
    """Also in double precision: TorchScript would round numbers that are no tensors."""
    module, x = tw.torch.to_torch(make(layers, dtype)), tensor(x, dtype)
    for compiled in (
        torch.jit.script(module),
        torch.jit.trace(module, x),
        torch.export.export(module, (x,)).module(),
    ):
        assert torch.equal(compiled(x), module(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_is_exact_where_pytorchs_own_would_switch(dtype):
    model = nn.Sequential(nn.Softplus(0.5), nn.Linear(1, 1, bias=False), dtype=dtype)
    model.load_state_dict({"1.weight": [[1.0]]})
    x = np.linspace(-2000, 2000, 4001, dtype=dtype)[:, np.newaxis]
    y = numpy(tw.torch.to_torch(model)(torch.tensor(x)))
    np.testing.assert_allclose(
        y, model(x), rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).tiny
    )


NETS = {
    "norms": (
        [
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 16, bias=False),
            nn.LayerNorm(16), nn.Softplus(), nn.Linear(16, 16), nn.BatchNorm1d(16, affine=False),
            nn.Dropout(0.0), nn.RMSNorm(16), nn.Linear(16, 2),
        ],
        lambda rng: rng.standard_normal((24, 6)),
    ),
    "blocks": (
        [
            nn.Linear(6, 8), nn.Residual(nn.BatchNorm1d(8), nn.SiLU(), nn.Residual(nn.Tanh())),
            nn.Residual(nn.RMSNorm(8), nn.Linear(8, 9), nn.Mish(), nn.Linear(9, 8)),
            nn.Linear(8, 2),
        ],
        lambda rng: rng.standard_normal((24, 6)),
    ),
    "inputs beside outputs": (
        [
            nn.Concatenate(nn.Linear(6, 3), nn.ReLU(), nn.Concatenate(nn.Tanh())),
            nn.Linear(12, 9), nn.Mish(), nn.Linear(9, 2),
        ],
        lambda rng: rng.standard_normal((24, 6)),
    ),
    "a table": (
        [
            nn.TabularInput(4, {1: (5, 3), 3: (3, 2)}, pieces={0: [-1, 0, 0.5]}), nn.Linear(8, 9),
            nn.ELU(), nn.Linear(9, 2),
        ],
        lambda rng: np.column_stack(
            [rng.standard_normal((24, 1)), np.arange(24) % 4, rng.random(24), np.arange(24) % 3]
        ),
    ),
    "codes": (
        [nn.Embedding(9, 4), nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)],
        lambda rng: np.arange(24) % 7,
    ),
    "coordinates": (
        [nn.FourierFeatures(2, 8), nn.Linear(16, 9), nn.Sine(2.0), nn.Linear(9, 2)],
        lambda rng: rng.random((24, 2)),
    ),
    "images": (
        [nn.Flatten(), nn.Linear(12, 9), nn.Hardswish(), nn.Linear(9, 2)],
        lambda rng: rng.standard_normal((24, 3, 4)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", NETS)
def test_both_train_alike(net, rng):
    """Gradients and steps, to rounding; and what was trained there comes back."""
    layers, inputs = NETS[net]
    model = make(layers)
    x, y = inputs(rng), rng.standard_normal((24, 2))
    module = tw.torch.to_torch(model).train()
    given = tensor(x)
    if given.is_floating_point() and net != "a table":
        given.requires_grad_()
    output = module(given)
    g = rng.standard_normal((24, 2))
    output.backward(torch.tensor(g))
    assert_close(model.forward(x), numpy(output), units=5000)
    back = model.backward(g)
    if given.requires_grad:
        assert_close(back, given.grad.numpy(), units=5000)
    slopes = np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])
    assert_close(model.flat_gradients, slopes, units=5000)

    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9))
    before = model.flat_parameters
    for _ in range(5):
        optimizer.zero_grad()
        theirs.functional.mse_loss(module(tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
        trainer.step(x, y)
    trained = tw.torch.from_torch(module)
    assert np.abs(trained.flat_parameters - before).max() > 1e-3
    for name, values in model.state_dict().items():
        found = trained.state_dict()[name]
        np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-12, err_msg=name)


def test_numbers_are_copies():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = model.state_dict()
    module = tw.torch.to_torch(model)
    again = tw.torch.from_torch(module)
    again.load_state_dict({name: values + 2 for name, values in before.items()})
    assert_equal_states(before, module)
    with torch.no_grad():
        for values in (*module.parameters(), module[1].running_mean, module[1].running_var):
            values += 1
    for kept, more in ((model, 0), (again, 2)):
        for name, values in kept.state_dict().items():
            np.testing.assert_array_equal(values, before[name] + more)


@DTYPES
def test_what_pytorch_has_of_its_own_stays_as_it_is(dtype):
    """The user's random numbers, and the dtype of other modules."""
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            module = tw.torch.to_torch(nn.Sequential(nn.Linear(3, 2), nn.RMSNorm(2), dtype=dtype))
            assert {str(p.dtype) for p in module.parameters()} == {f"torch.{dtype}"}
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_modules_of_our_own_can_be_copied_and_saved():
    layers = [nn.TabularInput(4, {1: (7, 2)}, pieces={0: [0, 1, 2]}), nn.Residual(nn.Linear(6, 6))]
    model = make([*layers, nn.Sine(3.0), nn.FourierFeatures(6, 3)])
    module, file = tw.torch.to_torch(model), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    expected = model(TABLE)
    for twin in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert_close(numpy(twin(torch.tensor(TABLE))), expected, units=5000)
        assert tw.torch.from_torch(twin).layers == model.layers
    text = repr(module)
    for part in (
        "TabularInput",
        "pieces={0: (0.0, 1.0, 2.0)}",
        "Sine(omega=3.0)",
        "6, 3, sigma=1.0",
    ):
        assert part in text


def test_a_network_of_pytorchs_in_parts(rng):
    act = theirs.Tanh()  # used three times
    net = theirs.Sequential(OrderedDict(
        encoder=theirs.Sequential(theirs.Linear(5, 8), act, theirs.Sequential(theirs.Dropout(0.2))),
        nothing=theirs.Sequential(),
        norm=theirs.BatchNorm1d(8),
        head=theirs.Sequential(act, theirs.Linear(8, 8), act, theirs.Linear(8, 2, bias=False)),
    ))  # fmt: skip
    x = torch.randn(32, 5)
    net(x)  # moves the running averages
    model = tw.torch.from_torch(net)
    assert model.layers == (
        nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8),
        nn.Tanh(), nn.Linear(8, 2, bias=False),
    )  # fmt: skip
    assert_close(model(x), numpy(net.eval()(x)))


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (theirs.Linear(3, 2), nn.Linear(3, 2)),
        (theirs.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)),
        (theirs.Dropout(0.1, inplace=True), nn.Dropout(0.1)),
        (theirs.ReLU(inplace=True), nn.ReLU()),
        (theirs.LeakyReLU(0.3), nn.LeakyReLU(0.3)),
        (theirs.ELU(0.3), nn.ELU(0.3)),
        (theirs.CELU(0.3), nn.CELU(0.3)),
        (theirs.GELU(approximate="tanh"), nn.GELU("tanh")),
        (theirs.Hardtanh(-3, 2), nn.Hardtanh(-3, 2)),
        (theirs.Softplus(0.5, threshold=30), nn.Softplus(0.5)),
        (theirs.BatchNorm1d(2, eps=0.1, momentum=0.2), nn.BatchNorm1d(2, 0.1, 0.2)),
        (theirs.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2, affine=False)),
        (theirs.LayerNorm(2, eps=0.1), nn.LayerNorm(2, 0.1)),
        (theirs.LayerNorm((2,), bias=False), nn.LayerNorm(2, bias=False)),
        (theirs.LayerNorm(2, elementwise_affine=False), nn.LayerNorm(2, elementwise_affine=False)),
        (theirs.RMSNorm(2), nn.RMSNorm(2)),
        (theirs.RMSNorm(2, 0.1, elementwise_affine=False), nn.RMSNorm(2, 0.1, False)),
    ],
    ids=repr,
)
def test_what_a_module_is_made_with_is_carried_over(module, layer):
    alone = isinstance(module, theirs.Linear)
    net = module if alone else theirs.Sequential(theirs.Linear(3, 2), module)
    assert tw.torch.from_torch(net).layers[-1] == layer


class OwnModule(theirs.Module):
    pass


class OwnLinear(theirs.Linear):
    pass


class OwnSequential(theirs.Sequential):
    pass


def behind(*modules):
    return theirs.Sequential(theirs.Linear(2, 2), *modules)


def shared():
    layer = theirs.Linear(2, 2)
    return theirs.Sequential(layer, theirs.ReLU(), layer)


def tied():
    net = behind(theirs.Linear(2, 2))
    net[1].weight = net[0].weight
    return net


def without_its_bias():
    net = behind(theirs.BatchNorm1d(2))
    net[1].bias = None
    return net


def sparse():
    net = behind(theirs.Linear(2, 2))
    net[1].weight = theirs.Parameter(net[1].weight.detach().to_sparse())
    return net


def in_itself():
    net = behind()
    net._modules["1"] = net
    return net


def hooked():
    net = behind()
    net[0].register_forward_hook(lambda module, x, y: 2 * y)
    return net


def with_a_forward_of_its_own():
    net = behind(theirs.Linear(2, 2))
    net[1].forward = lambda x: 2 * x
    return net


def with_a_buffer_more():
    net = behind()
    net[0].register_buffer("scale", torch.ones(2))
    return net


def with_a_negative_variance():
    net = theirs.Sequential(theirs.Linear(2, 2), theirs.BatchNorm1d(2))
    net[1].running_var.fill_(-1)
    return net


REFUSED = [
    (lambda: nn.Linear(2, 2), tw.ArgumentError, r"must be a torch\.nn\.Module.*got Linear\("),
    (lambda: theirs.Linear, tw.ArgumentError, "got <class"),
    (
        OwnModule, tw.UnsupportedError,
        r"the module \(OwnModule\) is not one .*may have BatchNorm1d.* a torch\.nn\.Sequential$",
    ),
    (lambda: behind(OwnLinear(2, 2)), tw.UnsupportedError, r"module 1 \(OwnLinear\)"),
    (
        lambda: behind(type("Linear", (OwnLinear,), {})(2, 2)),
        tw.UnsupportedError, r"module 1 \(Linear\) is not one of the layers",
    ),
    (lambda: behind(OwnSequential()), tw.UnsupportedError, r"module 1 \(OwnSequential\)"),
    (
        lambda: behind(theirs.Sequential(theirs.ReLU(), theirs.PReLU())),
        tw.UnsupportedError, r"module 1\.1 \(PReLU\).*LeakyReLU\(slope\)",
    ),
    (lambda: behind(theirs.Softmax(1)), tw.UnsupportedError, "CrossEntropyLoss includes the soft"),
    (lambda: behind(theirs.MSELoss()), tw.UnsupportedError, r"module 1 \(MSELoss\) is not one"),
    (lambda: theirs.LazyLinear(2), tw.UnsupportedError, "needs the width of its input"),
    (
        lambda: behind(theirs.BatchNorm1d(2, track_running_stats=False)),
        tw.UnsupportedError,
        r"1 \(BatchNorm1d\) has track_running_stats=False; only track_running_stats=True is",
    ),
    (
        lambda: behind(theirs.BatchNorm1d(2, momentum=None)),
        tw.ArgumentError, r"module 1 \(BatchNorm1d\): .*momentum.*got None",
    ),
    (without_its_bias, tw.UnsupportedError, r"1 \(BatchNorm1d\) has a weight but no bias"),
    (lambda: behind(theirs.LayerNorm((2, 2))), tw.ArgumentError, r"1 \(LayerNorm\).*\(2, 2\)"),
    (lambda: behind(theirs.Softplus(1, 3)), tw.UnsupportedError, "has threshold=3"),
    (lambda: behind(theirs.ELU(-1)), tw.ArgumentError, r"module 1 \(ELU\): .*alpha.*got -1"),
    (
        lambda: behind(theirs.LeakyReLU(-0.1)),
        tw.ArgumentError, r"module 1 \(LeakyReLU\): .*negative_slope.*got -0\.1",
    ),
    (
        lambda: theirs.Sequential(theirs.Embedding(3, 2, padding_idx=0), *behind()),
        tw.UnsupportedError, r"0 \(Embedding\) has padding_idx=0; only padding_idx=None is",
    ),
    (
        lambda: theirs.Sequential(theirs.Embedding(3, 2, max_norm=1.0), *behind()),
        tw.UnsupportedError, "has max_norm=1.0",
    ),
    (
        lambda: theirs.Sequential(theirs.Embedding(3, 2, scale_grad_by_freq=True), *behind()),
        tw.UnsupportedError, "has scale_grad_by_freq=True",
    ),
    (lambda: behind(theirs.Embedding(3, 2)), tw.ArgumentError, "must be the first layer"),
    (lambda: behind(theirs.Flatten(0)), tw.UnsupportedError, "=0; only start_dim=1 is supported"),
    (lambda: behind(theirs.Flatten(1, 2)), tw.UnsupportedError, "=2; only end_dim=-1 is supported"),
    (
        lambda: behind(theirs.Linear(3, 1)),
        tw.ShapeError, r"layer 1 \(Linear 3→1\): its input has 2 features, expected 3",
    ),
    (shared, tw.UnsupportedError, r"2\.weight is the same tensor as 0\.weight"),
    (tied, tw.UnsupportedError, r"1\.weight is the same tensor as 0\.weight"),
    (hooked, tw.UnsupportedError, r"module 0 \(Linear\) has forward hooks"),
    (
        with_a_forward_of_its_own,
        tw.UnsupportedError, r"module 1 \(Linear\) has a forward that.*del module\.forward",
    ),
    (
        with_a_buffer_more,
        tw.UnsupportedError, r"buffers were added to modules.*unexpected \['0\.scale'\]",
    ),
    (with_a_negative_variance, tw.ArgumentError, r"variance"),
    (sparse, tw.UnsupportedError, r"module 1 \(Linear\) has sparse parameters.*to_dense\(\)"),
    (in_itself, tw.UnsupportedError, "module contains itself"),
    (
        lambda: behind(theirs.Linear(2, 2, device="meta")),
        tw.DataError, r"module 1 \(Linear\) is on the meta device",
    ),
    (
        lambda: behind(theirs.utils.parametrizations.weight_norm(theirs.Linear(2, 2))),
        tw.UnsupportedError, r"module 1 \(ParametrizedLinear\)",
    ),
    (lambda: behind().half(), tw.DtypeError, r"got float16\. Use module\.float\(\)"),
    (lambda: behind().bfloat16(), tw.DtypeError, "got bfloat16"),
    (lambda: behind(theirs.Linear(2, 2).double()), tw.DtypeError, "got float32, float64"),
    (lambda: theirs.Sequential(), tw.ArgumentError, "at least one Linear"),
    (lambda: behind(tw.torch.to_torch(make([nn.Linear(2, 2)])), 3), TypeError, "not a Module"),
]  # fmt: skip


@pytest.mark.parametrize(("make_module", "error", "message"), REFUSED, ids=(c[-1] for c in REFUSED))
def test_what_there_is_no_layer_for_is_refused_by_name(make_module, error, message):
    with pytest.raises(error, match=message):
        tw.torch.from_torch(make_module())


def test_a_state_dict_is_no_module():
    state = theirs.Linear(30, 30).state_dict()
    with pytest.raises(tw.ArgumentError, match=r"got an OrderedDict: .*load_state_dict\(it\)$"):
        tw.torch.from_torch(state)
    with pytest.raises(tw.ArgumentError, match=r"got a Tensor of shape \(1000,\)$"):
        tw.torch.from_torch(torch.zeros(1000))


def test_what_is_frozen_is_named_for_it_is_not_here():
    module = theirs.Sequential(
        theirs.Linear(2, 3), theirs.BatchNorm1d(3), tw.torch.residual(theirs.Linear(3, 3)),
        theirs.Linear(3, 1),
    )  # fmt: skip
    for parameter in (*module[0].parameters(), *module[2].parameters(), module[3].bias):
        parameter.requires_grad = False
    message = (
        r"^the model trains 0\.\*, 2\.0\.\*, 3\.bias, which requires_grad=False .*"
        r'optimizer\.add_group\("0\.\*", frozen=True\) for each of them$'
    )
    with pytest.warns(UserWarning, match=message) as caught:
        model = tw.torch.from_torch(module)
    assert [it.filename for it in caught] == [__file__]
    optimizer = optim.SGD(lr=0.1)
    for pattern in ("0.*", "2.0.*", "3.bias"):
        optimizer.add_group(pattern, frozen=True)
    before = model.state_dict()
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer).step([[1, 2], [3, 5]], [0, 1])
    changed = {name for name, it in model.state_dict().items() if (it != before[name]).any()}
    averages = {"1.running_mean", "1.running_var"}
    assert changed - averages == {"1.weight", "1.bias", "3.weight"}
    with pytest.warns(UserWarning, match=r'add_group\("0\.\*", frozen=True\)$'):
        tw.torch.from_torch(module[0])


def test_layers_of_the_users():
    module = tw.torch.to_torch(nn.Sequential(nn.Linear(2, 2), OwnTanh()))
    assert type(module[1]) is theirs.Tanh
    with pytest.raises(tw.UnsupportedError, match=r"layer 1\.0 is OwnLayer.*has no Layer"):
        tw.torch.to_torch(nn.Sequential(nn.Linear(2, 2), nn.Residual(OwnLayer())))


def test_what_is_no_model_or_has_no_numbers_does_not_become_pytorchs():
    with pytest.raises(tw.ArgumentError, match=r"must be an nn\.Sequential; got a Linear$"):
        tw.torch.to_torch(theirs.Linear(2, 2))
    with pytest.raises(tw.DivergedError, match=r"0\.weight.* is -?inf"):
        tw.torch.to_torch(diverged())


class Block(theirs.Module):
    """A residual block and a head, in an order that only `forward` knows."""

    def __init__(self):
        super().__init__()
        self.out, self.norm = theirs.Linear(6, 2), theirs.LayerNorm(6)
        self.fc = theirs.Linear(6, 6)

    def forward(self, x):
        return self.out(x + self.fc(self.norm(x)).tanh())


def chain(net):
    return theirs.Sequential(tw.torch.residual(net.norm, net.fc, theirs.Tanh()), net.out)


def test_a_chain_of_the_modules_of_a_class_brings_its_numbers_back(rng):
    torch.manual_seed(0)
    net, x = Block().double(), rng.standard_normal((24, 6))
    model = tw.torch.from_torch(chain(net))
    assert model.layers == (
        nn.Residual(nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 2),
    )  # fmt: skip
    assert_close(model(x), numpy(net(tensor(x))))
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(0.1)).step(x, x[:, :2])
    chain(net).load_state_dict(tw.torch.to_torch(model).state_dict())
    assert_close(numpy(net(tensor(x))), model(x))


def test_the_list_of_layers_has_what_a_module_may_have():
    with pytest.raises(tw.UnsupportedError) as caught:
        tw.torch.from_torch(Block())
    listed = str(caught.value).partition("may have ")[2].partition(". ")[0]
    names = listed.replace(", and blocks by tw.torch.residual or tw.torch.concatenate", "").split(
        ", "
    )
    assert {"Linear", "GELU", "Dropout"} < {*names}
    assert all(issubclass(getattr(theirs, name), theirs.Module) for name in names)


def test_training_goes_on_where_pytorchs_optimizer_stopped(rng):
    torch.manual_seed(0)
    net = theirs.Sequential(theirs.Linear(6, 9), theirs.BatchNorm1d(9), theirs.Linear(9, 2))
    net, x, y = net.double(), rng.standard_normal((24, 6)), rng.standard_normal((24, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)

    def step():
        optimizer.zero_grad()
        theirs.functional.mse_loss(net(tensor(x)), tensor(y)).backward()
        optimizer.step()

    for _ in range(7):
        step()
    model, ours = tw.torch.from_torch(net), optim.AdamW(lr=0.02, weight_decay=0.1)
    with pytest.raises(tw.ArgumentError, match=r"PyTorch's \"step\" as \"steps\".*in \"arrays\""):
        ours.load_state_dict(optimizer.state_dict(), model)
    state = [optimizer.state[parameter] for parameter in net.parameters()]
    arrays = {
        name: np.concatenate([each[name].numpy().ravel() for each in state])
        for name in ("exp_avg", "exp_avg_sq")
    }
    steps = int(state[0]["step"])
    ours.load_state_dict(ours.state_dict() | {"steps": steps, "arrays": arrays}, model)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=ours)
    for _ in range(7):
        step()
        trainer.step(x, y)
    for name, values in model.state_dict().items():
        np.testing.assert_allclose(values, numpy(net.state_dict()[name]), rtol=1e-9, atol=1e-12)
