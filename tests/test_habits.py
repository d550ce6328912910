"""Names of other libraries are errors that say where here is what they stand for."""

import copy
import functools
import inspect
import itertools
import pickle
import re

import numpy as np
import pytest

import thalweg as tw
from thalweg import _habits, callbacks, continual, curvature, nn, optim


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("parameters", r"optimizer\.step\(model\)"),  # PyTorch
        ("eval", r"model\(x\) evaluates"),
        ("to", "on the CPU"),
        ("append", "make another"),
        ("predict", r"call the model: model\(x\)"),  # Keras
        ("compile", r"tw\.Trainer"),
        ("predict_proba", r"probabilities\(model\(x\)\)"),  # scikit-learn
        ("coefs_", r"state_dict\(\)"),
        ("load_weights", r"Sequential\.load\(path\)"),
        ("freeze", "frozen=True"),
        ("gradients", "flat_gradients"),
        ("hvp", r"tw\.curvature"),
        ("weight", r'state_dict\(\)\["0\.weight"\]'),
        ("half", 'precision="bfloat16"'),
        ("to_onnx", r"tw\.onnx\.export\(model, path\)"),
        ("to_torch", r"tw\.torch\.to_torch\(model\)"),
        ("soft_update", r"target\.follow\(model, tau\)"),
        ("polyak", r"target\.follow\(model, tau\)"),
        ("lerp", r"target\.follow\(model, tau\)"),
        ("update_target", r"target\.follow\(model, tau\)"),
        ("copy_", r"target\.follow\(model\) copies them"),
        ("copy_from", r"target\.follow\(model\) copies them"),
        ("reset_parameters", r"model\.follow\(nn\.Sequential\(\*model\.layers, .*seed=\.\.\.\)\)"),
        ("learn_one", r"tw\.Trainer\(.*\)\.step\(\[x\], \[y\]\)"),  # river
        ("predict_one", r"model\(\[x\]\)\[0\]"),
        ("grad_sample", r"tw\.curvature\.sample_gradients\(model, x, y, loss=\.\.\.\)"),
        ("tie_weights", r"trainer\.gradient_hook"),
        ("bias", r'\(\)\["0\.bias"\], a copy; .*load_state_dict\(.* \| \{"0\.bias": values\}\)'),
        ("activations", r"model\[:2\]\(x\)"),
        ("register_forward_hook", r"model\[:2\]\(x\)"),
        ("register_full_backward_hook", r"trainer\.gradient_hook"),
        ("num_params", r"did you mean num_parameters\?"),  # a slip
    ],
)
def test_what_models_of_others_have(name, advice):
    model = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(AttributeError, match=f"Sequential has no attribute '{name}'.*{advice}"):
        getattr(model, name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("predict", r"trainer\.model\(x\)"),
        ("score", r"trainer\.evaluate"),
        ("train_on_batch", r"trainer\.step"),
        ("zero_grad", r"trainer\.model\.zero_grad\(\)"),
        ("save_model", r"trainer\.model\.save\(path\)"),
        ("learn_one", r"trainer\.step\(\[x\], \[y\]\)"),
        ("predict_one", r"trainer\.model\(\[x\]\)\[0\]"),
        ("current_epoch", "it is trainer.epochs"),
        ("summary", r"trainer\.model\.summary\(\) returns it"),
        ("global_step", "it is trainer.optimizer.steps"),
        ("reset", r"twin = trainer\.copy\(\)"),
        ("stop_training", "on_epoch_end returns True"),
        ("fitt", r"did you mean fit\?"),
    ],
)
def test_what_trainers_of_others_have(name, advice, regressor):
    with pytest.raises(AttributeError, match=f"Trainer has no attribute '{name}'.*{advice}"):
        getattr(regressor, name)


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        (nn, "Module", "nn.Sequential"),
        (nn, "Softmax", "CrossEntropyLoss includes the softmax"),
        (nn, "Swish", "it is SiLU"),
        (nn, "Conv2d", "dense networks"),
        (nn, "SparseCategoricalCrossentropy", "it is CrossEntropyLoss"),
        (nn, "BatchNormalization", "it is BatchNorm1d"),
        (nn, "LazyLinear", r"Linear\(in_features, out_features\)"),
        (nn, "relu", r"did you mean ReLU\?"),
        (nn, "CrossEntropy", r"did you mean CrossEntropyLoss\?"),
        (optim, "adam", r"did you mean Adam\?"),
        (optim, "lr_scheduler", "optim.schedules"),
        (callbacks, "ReduceLROnPlateau", r"Trainer\(schedule=...\) takes it"),
        (continual, "SI", "it is SynapticIntelligence"),
        (continual, "ER", r"it is Replay\(trainer, 200\)"),
        (continual, "iCaRL", r"NearestMean\(Replay\(trainer, BalancedBuffer"),
        (continual, "ReplayBuffer", "ReservoirBuffer and BalancedBuffer"),
        (continual, "SplitMNIST", r"continual\.split\(x, y, x_test, y_test, tasks=5\)"),
        (continual, "forgetting", "in continual.metrics"),
        (continual, "Ewc", r"did you mean EWC\?"),
        (curvature, "hessian", r"Operator\(model, x, y, loss=\.\.\.\).* dense\(\)"),
        (curvature, "vjp", r"model\.backward\(v\)"),
        (curvature, "jacrev", r"tw\.diagnostics\.jacobian\(model, x\)"),
        (curvature, "ntk", r'"ikp,jlp->ijkl", a, b\).* = tw\.curvature\.jacobian\(model, x\)'),
        (curvature, "grad_sample", r"tw\.curvature\.sample_gradients\(model"),
        (curvature, "laplacian", r"trace\(model, x, y, loss=\.\.\.\)"),
        (curvature, "Trace", r"did you mean trace\?"),
        (nn, "GLU", "not supported; a hand-written loop"),
        (nn, "SwiGLU", "not supported; a hand-written loop"),  # no SiLU
        (
            nn,
            "SkipConnection",
            r"nn\.Residual\(\*layers\) computes x \+ f\(x\), and nn\.Concatenate",
        ),
        (nn, "SkipConnection", r"nn\.Residual\(\*layers\) computes x \+ f\(x\)"),
        (nn, "Concat", r"nn\.Residual\(\*layers\) computes x \+ f\(x\)"),
        (nn, "Lambda", "not supported: .* call a custom function between two models"),
        (nn, "Gaussian", "not supported: .* call a custom function between two models"),
        (nn, "NoisyLinear", r"noise to .* of a copy: model\.flat_parameters \+= noise"),
        (nn, "Bilinear", "not supported; a hand-written loop"),
        (nn, "Softmin", "not supported; a hand-written loop"),
        (nn, "GaussianNoise", "nn.Dropout"),
        (nn, "Normalize", "nn.Standardize.of\\(x\\) is a layer that does so"),
        (nn, "Parameter", r"nn\.Sequential\(nn\.Linear\(1, k\)\), fed with zeros"),
        (nn, "FocalLoss", "nn.CustomLoss"),
        (nn, "TripletMarginLoss", "nn.CustomLoss"),
        (nn.init, "xavier_uniform_", 'init="xavier_uniform"'),
        (nn.init, "kaiming_uniform_", 'the closest one here is .*init="kaiming_normal"'),
        (nn.init, "he_normal", 'the closest one here is .*init="kaiming_normal"'),
        (nn.init, "orthogonal_", "load_state_dict"),
        (nn.utils, "clip_grad_norm", "it is clip_grad_norm_"),
        (nn.utils, "parameters_to_vector", "flat_parameters"),
        (optim.schedules, "CosineDecay", "it is CosineAnnealingLR"),
        (optim.schedules, "exponential_decay", "it is ExponentialLR"),
        (optim.schedules, "OneCycle", r"did you mean OneCycleLR\?"),
        (optim.schedules, "CyclicLR", "LambdaLR"),
        (optim.schedules, "ChainedScheduler", "LambdaLR of the product of their factors"),
        (optim, "ASGD", r"it is SGD; .*average=optim\.SWA\(\)"),
        (nn, "SmoothL1Loss", r"is HuberLoss\(delta=b\) divided by b"),
        (tw, "vmap", r"train_many.* single samples are .*tw\.curvature\.sample_gradients\(model"),
        (tw, "per_sample_gradients", r"curvature\.sample_gradients\(model"),
        (tw, "jit", "everything is compiled already"),
        (tw, "vjp", r"model\.backward\(v\)"),
        (tw, "value_and_grad", r"trainer\.backward\(x, y\) returns the loss"),
        (callbacks, "ProgressBar", "progress=True"),
        (callbacks, "EMA", r"Trainer\(\.\.\., average=optim\.EMA\(\)\)"),
        (tw.solve, "lstsq", r"least_squares\(x, y\)"),
        (tw.diagnostics, "condition", r"conditioning\(model, x\)"),
        (tw.diagnostics, "dead_units", r"continual\.metrics\.plasticity\(model, x\)"),
        (tw.diagnostics, "saliency", r"it is jacobian\(model, x\)"),
        (tw.diagnostics, "ntk", r"tw\.curvature\.jacobian\(model, x\).*ntk_eigenvalues\("),
        (tw.diagnostics, "activations", r"model\[:2\]\(x\)"),
        (optim, "Newton", r"LevenbergMarquardt.*curvature\.Operator.*dense\(\)"),
        (optim, "GaussNewton", r"LevenbergMarquardt"),
        (optim, "KFAC", r"Shampoo is similar; tw\.curvature\.kfac_factors"),
        (optim, "NaturalGradient", r"curvature\.kfac_factors"),
        (optim, "chain", r"clip_grad_norm=.*add_group\(pattern, \.\.\.\).*gradient_hook"),
        (optim, "masked", r"optimizer\.add_group\(pattern, \.\.\.\)"),
        (optim, "clip_by_global_norm", r"Trainer\(\.\.\., clip_grad_norm=1\.0\)"),
        (optim, "apply_updates", r"optimizer\.step\(model\)"),
        (optim, "incremental_update", r"target\.follow\(model, step_size\)"),
        (optim, "Lookahead", r"on_step_end.*\"An optimizer of your own\" of the page on loops"),
        (optim, "AdaBelief", r"gradient_hook.*\"An optimizer of your own\""),
        (optim, "Momentum", r"SGD\(lr=\.\.\., momentum=0\.9\)"),
        *(
            (module, name, r'"Uncertainty of a prediction"')
            for module in (curvature, tw)
            for name in ("Laplace", "laplace", "LaplaceApproximation")
        ),
        *(
            (module, "SWAG", r'optim\.SWA\(\).*train_many.* "Uncertainty of a prediction"')
            for module in (curvature, optim, tw)
        ),
        (tw, "jacobian", r"tw\.diagnostics\.jacobian"),
        (tw, "hessian", r"tw\.curvature\.Operator"),
        (tw, "optimizers", "in optim"),
        (tw, "Model", "nn.Sequential"),
        (tw, "to_onnx", r"tw\.onnx\.export\(model, path\)"),
        (tw, "from_torch", r"tw\.torch\.from_torch\(module\)"),
        (tw, "scikit_learn", r"tw\.sklearn"),
        (tw, "MLPClassifier", r"tw\.sklearn\.MLPClassifier"),
        (tw.sklearn, "KerasRegressor", "it is MLPRegressor"),
        (tw.onnx, "to_onnx", r"it is export\(model, path\)"),
        (tw.onnx, "load", r"onnxruntime\.InferenceSession\(path\)"),
        (tw.onnx, "exports", r"did you mean export\?"),
        (tw.torch, "to_pytorch", r"it is to_torch\(model\)"),
        (tw.torch, "nn", "import torch"),
        (tw.torch, "fromtorch", r"did you mean from_torch\?"),
        (tw, "metrics", r'record\["auc"\]'),
        (tw, "Sequential", "it is nn.Sequential"),
        (tw, "AdamW", "it is optim.AdamW"),
        (tw, "no_grad", "records nothing"),
        (tw, "load_model", r"nn\.Sequential\.load reads models"),
        (tw, "save_model", "have a method save"),
        (tw, "distributions", r"nn\.CustomLoss, or in a hand-written loop"),
        (tw, "set_seed", "seed=0"),
        (tw, "Tensor", "NumPy arrays"),
        (tw, "DataLoader", r"trainer\.fit\(x, y, batch_size=32\)"),
        (tw, "jvp", r"tw\.curvature"),
        (tw, "Trianer", r"did you mean Trainer\?"),
    ],
)
def test_what_modules_of_others_have(module, name, advice):
    with pytest.raises(AttributeError, match=f"{module.__name__}.*no attribute '{name}'.*{advice}"):
        getattr(module, name)


def test_what_is_advised_computes_the_kernel(rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), dtype="float64")
    x, z = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    named = {"np": np, "a": curvature.jacobian(model, x), "b": curvature.jacobian(model, z)}
    product = re.search(r"is (np.einsum.*\)), with", _habits.NTK)[1]
    assert eval(product, named).shape == (5, 4, 2, 2)
    kernel = eval(product, named | {"b": named["a"]}).transpose(0, 2, 1, 3).reshape(10, 10)
    eigenvalues = tw.diagnostics.ntk_eigenvalues(model, x)
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel / 5)[::-1], eigenvalues, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("weight", r'state_dict\(\)\["0\.weight"\]'),
        ("kernel", "a layer holds no numbers"),  # Keras
        ("forward", r"nn\.Sequential\(\*model\.layers\[:2\]\)"),
    ],
)
def test_what_layers_of_others_have(name, advice):
    layer = nn.Sequential(nn.Linear(2, 1))[0]
    with pytest.raises(AttributeError, match=f"Linear has no attribute '{name}'.*{advice}"):
        getattr(layer, name)


def test_layers_are_no_functions():
    """They are PyTorch's way to compute something."""
    with pytest.raises(
        TypeError, match=r"^ReLU\(\) is a description, .* computed as a layer of a model"
    ):
        nn.ReLU()(np.ones((2, 3)))
    with pytest.raises(tw.ArgumentError, match=r"loss must be a Loss.*got ReLU\(\)$"):
        with_model(loss=nn.ReLU())


def test_layers_are_copied_pickled_and_matched_as_before():
    layer = nn.Linear(2, 1)
    assert copy.deepcopy(layer) == pickle.loads(pickle.dumps(layer)) == layer
    assert not hasattr(layer, "__array__")


def test_the_history_says_what_its_figures_of_validation_need():
    with pytest.raises(KeyError, match=r"'val_loss'; there are loss: .*validation_data=\(x, y\)"):
        tw.History(loss=[0.5])["val_loss"]


def test_the_history_is_the_dict_itself():
    history = tw.History(loss=[0.5])
    with pytest.raises(AttributeError, match=r'this is the dict itself, history\["loss"\]'):
        _ = history.history
    with pytest.raises(AttributeError, match=r"it is a key, history\['loss'\]"):
        _ = history.loss


@pytest.mark.parametrize(
    ("thing", "name"),
    [("trainer", "model"), ("trainer", "optimizer"), ("model", "dtype"), ("optimizer", "steps")],
)
def test_what_can_only_be_read(thing, name, regressor):
    parts = {"trainer": regressor, "optimizer": regressor.optimizer, "model": regressor.model}
    with pytest.raises(AttributeError, match=rf"{name} can only be read"):
        setattr(parts[thing], name, getattr(parts[thing], name))


def test_another_optimizer_is_that_of_another_trainer(regressor):
    with pytest.raises(AttributeError, match=r"only be read: a second Trainer .*optim\.LBFGS\(\)"):
        regressor.optimizer = optim.LBFGS()


@pytest.mark.parametrize(
    ("thing", "name", "advice"),
    [
        ("trainer", "lr", r"it is trainer\.optimizer\.lr"),
        ("trainer", "clip_grad_norm", r"Trainer\(..., clip_grad_norm=...\)"),
        ("trainer", "stop_training", "on_epoch_end returns True"),  # Keras
        ("trainer", "should_stop", "on_epoch_end returns True"),  # Lightning
        ("optimizer", "learning_rate", r"it is optimizer\.lr"),
        ("optimizer", "momentun", r"did you mean momentum\?"),
        ("model", "flat_params", r"did you mean flat_parameters\?"),
        ("model", "anything", ""),
    ],
)
def test_what_would_do_nothing_cannot_be_assigned(thing, name, advice, regressor):
    """Python would make a new attribute, and go on as if nothing had been said."""
    parts = {"trainer": regressor, "optimizer": regressor.optimizer, "model": regressor.model}
    message = f"has no attribute '{name}' that could be set.*{advice}"
    with pytest.raises(AttributeError, match=message):
        setattr(parts[thing], name, 0.1)
    assert name not in vars(parts[thing])


@pytest.mark.parametrize(
    ("thing", "name", "advice"),
    [
        ("trainer", "gradient_hook", r": with trainer\.gradient_hook\(function\): trainer\.fit"),
        ("trainer", "step", ": fit takes its steps in the core"),
        ("optimizer", "step", ": updates are computed in the core"),
        ("model", "forward", ""),
    ],
)
def test_a_method_cannot_be_replaced_where_nothing_would_call_it(thing, name, advice, regressor):
    parts = {"trainer": regressor, "optimizer": regressor.optimizer, "model": regressor.model}
    with pytest.raises(AttributeError, match=rf"\.{name} is a method, which cannot be set{advice}"):
        setattr(parts[thing], name, lambda *arguments: None)
    assert name not in vars(parts[thing])


def test_other_methods_can_be_replaced_as_tests_do(regressor, monkeypatch):
    monkeypatch.setattr(regressor, "evaluate", lambda *_: {"loss": 1.0})
    assert regressor.evaluate([[0.0]], [0.0]) == {"loss": 1.0}


class Named(nn.Sequential):
    """A model with a name, as one writes it."""

    def __init__(self, name):
        super().__init__(nn.Linear(2, 1))
        self.name = name


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_class_of_the_users_own_has_what_it_likes_and_its_copies_too(again):
    model = Named("actor")
    model.tags = ["a"]
    twin = again(model)
    assert type(twin) is Named
    assert (twin.name, twin.tags) == ("actor", ["a"])
    np.testing.assert_array_equal(twin.flat_parameters, model.flat_parameters)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        ("relu", r"did you mean nn\.ReLU\(...\)\?"),  # Keras
        ("swish", "got 'swish': it is SiLU"),  # as nn.Swish is told; not Hardswish
        ("Dense", r"it is Linear\(in_features, out_features\)"),
        (np.tanh, r"did you mean nn\.Tanh\(...\)\?"),
        # "<lambda>" is like no name
        (lambda x: x, "got <function .*>: layers are computed in the core.* between two models"),
        (nn.MSELoss(), r"got MSELoss\(reduction='mean'\)$"),
        (optim.Adam, "got <class '.*Adam'>$"),
        (nn.ReLU, r"it is the class ReLU; make a layer of it: ReLU\(...\)"),
        ([nn.ReLU()], r"it is a list; unpack it: Sequential\(\*layers\)"),
        (nn.Sequential(nn.Linear(2, 2)), r"it is a model; use its layers.*\*model\.layers"),
        (None, "got None"),
    ],
)
def test_what_is_not_a_layer(layer, advice):
    with pytest.raises(tw.ArgumentError, match=f"^layer 1 is not one of.*{advice}"):
        nn.Sequential(nn.Linear(2, 2), layer)
    with pytest.raises(tw.ArgumentError, match="Residual: layer 0 is not one"):
        nn.Residual(layer)


@pytest.mark.parametrize(
    ("part", "value", "advice"),
    [
        ("optimizer", "schedule_free", r"did you mean optim\.ScheduleFreeAdamW\(...\)\?"),
        ("schedule", "cosine", r"did you mean schedules\.CosineAnnealingLR\(...\)\?"),  # begins so
        ("optimizer", "xyzzy", "got 'xyzzy'$"),
        ("optimizer", "a", "got 'a'$"),  # with which many begin
        ("optimizer", lambda: 0.1, "got <function .*>$"),  # LAMB is meant by no "<lambda>"
        ("optimizer", nn.ReLU, "got the class ReLU$"),
        ("optimizer", optim.SGD, r"got the class SGD; pass an instance: optim\.SGD\(...\)$"),
        ("schedule", "reduce_on_plateau", r"did you mean schedules\.ReduceLROnPlateau\(...\)\?"),
        (
            "schedule",
            optim.schedules.ReduceLROnPlateau,
            r"instance: schedules\.ReduceLROnPlateau\(",
        ),
        ("loss", "softmax", r"did you mean nn\.CrossEntropyLoss\(...\)\?"),
        ("loss", "kl_div_loss", "DistillationLoss takes the logits of a teacher"),
        ("loss", "hubr", r"did you mean nn\.HuberLoss\(...\)\?"),
        ("loss", "msee", r"did you mean nn\.MSELoss\(...\)\?"),  # more like MSE than MSELoss
        ("loss", "focal", r"got 'focal': a custom loss is a function \(output, target\)"),
        ("loss", "cosine_similarity", "a custom loss"),
        ("loss", "xyzzy", "there are BCEWithLogitsLoss, CrossEntropyLoss, .*QuantileLoss$"),
    ],
)
def test_parts_of_a_trainer_by_their_names(part, value, advice):
    parts = {"loss": nn.MSELoss(), "optimizer": optim.SGD(), part: value}
    with pytest.raises(tw.ArgumentError, match=f"^{part} must be .*{advice}"):
        tw.Trainer(nn.Sequential(nn.Linear(2, 1)), **parts)


def test_classes_of_pytorchs_are_told_ours():
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(2, 1))
    for part, theirs, ours in [
        ("optimizer", torch.optim.AdamW, "optim.AdamW"),
        ("schedule", torch.optim.lr_scheduler.StepLR, "schedules.StepLR"),
        ("loss", torch.nn.HuberLoss, "nn.HuberLoss"),
    ]:
        parts = {"loss": nn.MSELoss(), "optimizer": optim.SGD(), part: theirs}
        with pytest.raises(tw.ArgumentError, match=rf"did you mean {ours}\(...\)\?"):
            tw.Trainer(model, **parts)


def test_layers_of_pytorchs_are_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(tw.ArgumentError, match=r"torch\..*Linear; use that of .*from_torch"):
        nn.Sequential(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("he_normal", "kaiming_normal"), ("glorot_uniform", "xavier_uniform"), ("xavier", "xavier_")],
)
def test_initializations_by_their_other_names(name, meant):
    with pytest.raises(tw.ArgumentError, match=f"init is '{name}'.*\"{meant}"):
        nn.Linear(2, 2, init=name)


@pytest.mark.parametrize("name", ["orthogonal", "Orthogonal_", ("orthogonal", 0.01)])
def test_orthogonal_weights_are_made_by_hand(name):
    with pytest.raises(tw.ArgumentError, match=r"init is .*rthogonal.* as nn\.init shows: model"):
        nn.Linear(2, 2, init=name)


@pytest.mark.parametrize("dtype", ["float16", np.float16, "bfloat16"])
def test_half_precision_is_that_of_a_trainer(dtype):
    with pytest.raises(tw.ArgumentError, match=r'^dtype must be .*precision="bfloat16"'):
        nn.Sequential(nn.Linear(1, 1), dtype=dtype)


def test_no_dtype_is_not_float64():
    """It is to NumPy: ``np.dtype(None)``."""
    with pytest.raises(tw.ArgumentError, match='dtype must be one of "float32", "float64"'):
        nn.Sequential(nn.Linear(1, 1), dtype=None)


# --- what optimizers, schedules and averages of others are made with ------------------------------


def torch_parameters():
    torch = pytest.importorskip("torch")
    return torch.nn.Linear(2, 1).parameters()


GIVEN = {
    "a model": lambda: nn.Sequential(nn.Linear(2, 1)),
    "PyTorch's parameters": torch_parameters,
    "a list": lambda: [np.zeros(3)],
    "groups": lambda: [{"params": [], "lr": 0.1}],
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    "kind",
    sorted(
        {x for x in vars(optim).values() if isinstance(x, type) and issubclass(x, optim.Optimizer)}
        - {optim.Optimizer},
        key=lambda kind: kind.__name__,
    ),
    ids=lambda kind: kind.__name__,
)
def test_optimizers_are_given_no_parameters(kind, given):
    name = kind.__name__
    written = r"optim\.SGD\(lr=0\.1\), rho=0\.05" if kind is optim.SAM else "lr=0.1"
    message = (
        rf"{name} takes no parameters or model; got an? \w+\. Make optimizer = "
        rf"optim\.{name}\({written}\), .*tw\.Trainer\(model, .*optimizer\.step\(model\)"
    )
    for make in (
        lambda: kind(GIVEN[given](), lr=0.1),
        lambda: kind(params=GIVEN[given](), lr=0.1),
    ):
        with pytest.raises(tw.ArgumentError, match=message):
            make()


def test_what_stands_for_a_number_is_one():
    assert optim.SGD(np.array(0.5)).lr == 0.5
    assert optim.SAM(optim.SGD(0.5), 0.1, True).lr == 0.5
    with pytest.raises(tw.ArgumentError, match=r"lr must be a finite number.* got '0\.1'"):
        optim.SGD("0.1")
    with pytest.raises(tw.ArgumentError, match=r">= 0; got an ndarray of shape \(30, 30\)$"):
        optim.SGD(np.ones((30, 30)))  # as a parameter is elsewhere


@pytest.mark.parametrize(
    "schedule", [optim.schedules.CosineAnnealingLR(100), optim.schedules.ReduceLROnPlateau()]
)
def test_a_schedule_is_no_learning_rate(schedule):
    """It is in Keras."""
    for make in (lambda: optim.Adam(schedule), lambda: optim.Adam(lr=schedule)):
        with pytest.raises(tw.ArgumentError, match=r"lr must be a number.*schedule=\.\.\."):
            make()


def test_an_optimizer_of_the_users_own_takes_what_it_likes():
    class Mine(optim.SGD):
        def __init__(self, model, rate):
            super().__init__(rate / model.num_parameters)

    assert Mine(nn.Sequential(nn.Linear(2, 1)), rate=0.3).lr == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("learning_rate", "it is lr"),  # Keras
        ("epsilon", "it is eps"),
        ("beta_1", r"betas=\(beta1, beta2\)"),
        ("clipnorm", "clip_grad_norm"),
        ("b2", "betas"),  # Optax
        ("learning_rate_init", "it is lr"),  # scikit-learn
        ("fused", "nothing to choose"),  # PyTorch
        ("weigth_decay", r"did you mean weight_decay\?"),
    ],
)
def test_arguments_of_other_optimizers(name, advice):
    message = f"Adam has no argument '{name}'.*{advice}.*Adam takes lr, betas, eps"
    with pytest.raises(TypeError, match=message):
        optim.Adam(**{name: 0.1})


@pytest.mark.parametrize(
    ("make", "goes_to"),
    [
        (lambda o, m: optim.schedules.StepLR(o, step_size=3), r"schedule=\.\.\."),
        (lambda o, m: optim.schedules.CosineAnnealingLR(o, 100), r"schedule=\.\.\."),
        (lambda o, m: optim.schedules.ReduceLROnPlateau(o, "min"), r"schedule=\.\.\."),
        (lambda o, m: optim.EMA(m, 0.9), r"average=\.\.\."),
        (lambda o, m: optim.SWA(m), r"average=\.\.\."),
    ],
)
def test_schedules_and_averages_are_given_no_optimizer_or_model(make, goes_to):
    with pytest.raises(tw.ArgumentError, match=f"takes no .* pass it to tw.Trainer.*{goes_to}"):
        make(optim.SGD(), nn.Sequential(nn.Linear(2, 1)))


# --- arguments of other libraries' -------------------------------------------------------------


def with_model(**options):
    model = nn.Sequential(nn.Linear(2, 1))
    return tw.Trainer(model, **{"loss": nn.MSELoss(), "optimizer": optim.SGD()} | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.Linear(units=3), "Linear .*'units': it is out_features"),
        (
            lambda: nn.Linear(2, 1, activation="relu"),
            "Linear .*'activation': .*layers of their own",
        ),
        (lambda: nn.Linear(2, 1, dtype="float64"), r"Linear .*'dtype': nn\.Sequential"),
        (lambda: nn.Linear(2), "Linear: missing .* 'out_features'"),
        (lambda: nn.Dropout(rate=0.5), "Dropout .*'rate': it is p"),
        (lambda: nn.LayerNorm(2, epsilon=0.1), "LayerNorm .*'epsilon': it is eps"),
        (lambda: nn.MSELoss(size_average=True), "MSELoss .*'size_average': it is reduction="),
        (lambda: nn.CrossEntropyLoss(from_logits=True), "'from_logits': outputs are always logits"),
        (lambda: nn.CrossEntropyLoss(class_weight={0: 1}), "'class_weight': it is weight"),
        (lambda: nn.Sine(omega_0=30), "Sine .*'omega_0': it is omega"),
        (lambda: nn.FourierFeatures(2, scale=5), "FourierFeatures .*'scale': it is sigma"),
        (
            lambda: nn.Sequential(nn.Linear(2, 1), random_state=0),
            r"Sequential .*'random_state': it is seed.* takes \*layers, dtype, seed",
        ),
        (
            lambda: nn.Sequential(layers=[nn.Linear(2, 1)]),
            r"Sequential .*'layers': layers come one by one: nn\.Sequential\(\*layers\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 1), name="critic"),
            "Sequential .*'name': leave it out",
        ),
        (
            lambda: with_model().model.load_state_dict({}, strict=False),
            r"load_state_dict\(\) .*'strict': .*state_dict\(\) \| arrays\).* takes state_dict$",
        ),
        (lambda: optim.EMA(beta=0.99), "EMA .*'beta': it is decay"),
        (
            lambda: callbacks.EarlyStopping(baseline=0.9),
            r"EarlyStopping .*'baseline': .*on_epoch_end .*returns True",
        ),
        (
            lambda: callbacks.ModelCheckpoint("file", save_freq=5),
            r"ModelCheckpoint .*'save_freq': .*on_epoch_end .*trainer\.save\(path\)",
        ),
        (lambda: with_model().fit([[1, 2]], [1], drop_last=True), r"fit.* 'drop_last': .*x\[:k\]"),
        (
            lambda: with_model().fit([[1, 2]], [1], clip_grad_norm=1.0),
            r"fit.* 'clip_grad_norm': it is fixed .* Trainer\(\.\.\., clip_grad_norm=\.\.\.\)",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], accumulate_grad_batches=2),
            r"fit.* 'accumulate_grad_batches': it is fixed .*Trainer\(\.\.\., accumulate_grad",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], initial_epoch=3),
            r"fit.* 'initial_epoch': .*trainer\.epochs",
        ),
        (lambda: nn.HuberLoss(dleta=1), r"'dleta'; did you mean delta\? HuberLoss takes delta, "),
        (lambda: nn.HuberLoss(beta=2), r"'beta': .* is HuberLoss\(delta=b\) divided by b\. Hub"),
        (lambda: nn.BCEWithLogitsLoss(weight=[1, 2]), r"'weight': .*sample_weight.*nn\.CustomLoss"),
        (
            lambda: nn.utils.clip_grad_norm_(with_model().model, 1.0, norm_type=1),
            r"clip_grad_norm_\(\) .*'norm_type': the norm is the Euclidean one",
        ),
        (lambda: optim.schedules.StepLR(step=3), r"StepLR .*'step'; did you mean step_size\?"),
        (lambda: with_model(criterion=nn.MSELoss()), "Trainer .*'criterion': it is loss"),
        (lambda: with_model(scheduler=None), "Trainer .*'scheduler': it is schedule"),
        (
            lambda: tw.Trainer(nn.Sequential(nn.Linear(2, 1)), nn.MSELoss(), optim.SGD()),
            r"Trainer takes only model without a name; .*: loss=\.\.\., optimizer=",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], 10),
            r"Trainer\.fit\(\) takes only x, y without a name; .*: epochs=\.\.\., batch_size=",
        ),
        (
            lambda: with_model(epochs=3),
            r"Trainer .*'epochs': trainer\.fit\(\.\.\., epochs=\.\.\.\)",
        ),
        (lambda: with_model(metrics=["accuracy"]), "Trainer .*'metrics': trainer.evaluate"),
        (lambda: with_model().fit([[1, 2]], [1], metrics=[]), r"'metrics': .*record\["),
        (lambda: with_model().fit([[1, 2]], [1], verbose=0), "fit.* 'verbose': progress=True"),
        (lambda: with_model().fit([[1, 2]], [1], validation_split=0.1), "validation_data="),
        (lambda: with_model().fit([[1, 2]], [1], validation_freq=5), r"trainer\.evaluate\(x, y\)"),
        (lambda: nn.Linear(2, 1, kernel_regularizer="l2"), r"weight_decay=.*trainer\.set_penalty"),
        (
            lambda: optim.SGD(0.1, 0.9, 0, 0, False, "torch"),
            "SGD takes only lr, .*, nesterov without a name; pass the rest by name: convention=",
        ),
        (lambda: nn.MSELoss().gradient(), r"^Loss\.gradient\(\) missing"),
        (lambda: optim.LBFGS().add_group(), r"^Optimizer\.add_group\(\) missing"),
        (lambda: with_model().fit([[1, 2]], [1], class_weight={0: 1}), r"nn\.CrossEntropyLoss"),
        (lambda: with_model().fit([[1, 2]], [1], epoch=3), r"'epoch'; did you mean epochs\?"),
        (
            lambda: with_model().evaluate([[1, 2]], [1], metrics=["auc"]),
            r"Trainer\.evaluate\(\) .*'metrics': evaluate returns .*takes x, y, sample_weight",
        ),
        (
            lambda: with_model().evaluate([[1, 2]], [1], batch_size=None),
            r"Trainer\.evaluate\(\) .*'batch_size': all rows are one batch",
        ),
        (
            lambda: with_model().step([[1, 2]], [1], weight=[1]),
            r"Trainer\.step\(\) .*'weight': it is sample_weight.* takes x, y, sample_weight$",
        ),
        (
            lambda: with_model().backward([[1, 2]], [1], sampel_weight=[1]),
            r"Trainer\.backward\(\) .*did you mean sample_weight\?",
        ),
        (
            lambda: tw.Trainer.load("file", loss_fn=None),
            r"Trainer\.load\(\) .*'loss_fn': it is loss.* takes path, precision, loss$",
        ),
        (
            lambda: tw.Trainer.load("file", "float32"),
            r"Trainer\.load\(\) takes only path without a name; .*: precision=\.\.\., loss=",
        ),
        (
            lambda: with_model().plan(rows=3),
            r"Trainer\.plan\(\) has no argument 'rows'\. .* takes batch_size$",
        ),
        (
            lambda: with_model().set_penalty(None, ewc_lambda=3),
            r"Trainer\.set_penalty\(\) .*'ewc_lambda': it is strength.* anchor, strength$",
        ),
        (
            lambda: optim.Muon().add_group("*", requires_grad=False),
            r"add_group\(\) .*'requires_grad': frozen=True leaves.* frozen, muon$",
        ),
        (lambda: tw.find_lr(with_model(), [[1]], [1], end_lr=1), r"find_lr .*'end_lr': it is max"),
        (lambda: optim.minimize(abs, x0=[1]), r"optim\.minimize .*'x0': it is theta"),
        (lambda: optim.schedules.LinearLR()(3), r"LinearLR\(\.\.\.\)\.lr\(t, base=.*, total="),
        (
            lambda: nn.Residual(block=[]),
            r"Residual .*'block': layers come one by one: .* \*layers$",
        ),
        (lambda: nn.TabularInput(3, cardinalities={}), r"'cardinalities': it is categories, \{col"),
        (lambda: nn.TabularInput(3, {}, {}), r"takes only in_features, categories .*: pieces="),
        (lambda: nn.Standardize.of([1.0, 2.0], axis=0), r"'axis': columns are scaled.* inverse$"),
        (lambda: nn.utils.quantile_edges([0.0, 1.0], n_bins=2), r"'n_bins': it is pieces\."),
        *(
            (
                lambda name=name: tw.train_many([], [[1, 2]], [1], **{name: 2}),
                rf"^train_many has no argument '{name}': it is workers, .* takes trainers, x, y, "
                "workers, callbacks, diverged, epochs, ",
            )
            for name in ("n_jobs", "num_workers", "max_workers", "n_workers", "threads")
        ),
        (
            lambda: tw.train_many([], [[1, 2]], [1], verbose=1),
            "^train_many .*'verbose': progress=True",
        ),
        (
            lambda: tw.train_many([], [[1, 2]], [1], lrs=[0.1, 0.2]),
            r"^train_many .*'lrs': .*own optimizer .*AdamW\(lr=rate\)",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], n_jobs=2),
            r"fit.* 'n_jobs': tw\.set_num_threads\(n\).* THALWEG_NUM_THREADS",
        ),
    ],
)
def test_names_of_arguments_of_others(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("make", "name", "advice"),
    [
        (nn.MSELoss, "backward", r"trainer\.backward\(x, y\)"),  # PyTorch
        (nn.MSELoss, "forward", r"call it: loss\(model\(x\), y\)"),
        (nn.MSELoss, "predict", "outputs of the model are the predictions"),
        (nn.GaussianNLLLoss, "predict", r"np\.split\(model\(x\), 2, axis=1\)"),
        (nn.PoissonNLLLoss, "predict", r"np\.exp\(model\(x\)\)"),
        (nn.GaussianNLLLoss, "backward", r"trainer\.backward\(x, y\)"),
        (nn.CrossEntropyLoss, "predict_proba", r"have probabilities\(model\(x\)\)"),
        (
            lambda: optim.schedules.StepLR(3),
            "step",
            r"schedule=\.\.\.\) sets .*epochs=1\) for each",
        ),
        (lambda: optim.schedules.StepLR(3), "get_lr", r"trainer\.optimizer\.lr"),
        (lambda: optim.schedules.StepLR(3), "get_last_lr", r"trainer\.optimizer\.lr"),
        (optim.schedules.ReduceLROnPlateau, "step", r"schedule=\.\.\.\) sets the rate"),
        (optim.Adam, "set_params", r'optimizer\.lr = \.\.\.; .* \{"solver": \[optim\.AdamW\(lr='),
        (optim.Adam, "get_params", r'optimizer\.lr = \.\.\.; .* \{"solver": \[optim\.AdamW\(lr='),
        (optim.Adam, "save", r"pickle\.dumps\(\(model, optimizer\)\)"),
        (optim.Adam, "reset", r"optimizer\.load_state_dict\(fresh, model\)"),
        (optim.Adam, "load", r"trainer\.save\(path\) writes it with its model"),
    ],
)
def test_what_losses_schedules_and_optimizers_of_others_have(make, name, advice):
    thing = make()
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'.*{advice}"):
        getattr(thing, name)


def test_what_only_says_how_it_is_used_is_no_function_of_the_users():
    """Schedules and models can be called, too."""
    for thing in (optim.schedules.StepLR(3), nn.Sequential(nn.Linear(2, 1))):
        with pytest.raises(tw.ArgumentError, match="loss must be a Loss"):
            with_model(loss=thing)
    with pytest.raises(tw.ArgumentError, match="lr_lambda must be callable; got StepLR"):
        optim.schedules.LambdaLR(lr_lambda=optim.schedules.StepLR(3))


def test_the_signature_of_a_step_is_that_of_its_arguments():
    """It catches others, so that it need not look for them in each of many calls."""
    for method in (tw.Trainer.step, tw.Trainer.backward):
        assert list(inspect.signature(method).parameters) == ["self", "x", "y", "sample_weight"]


def test_losses_of_other_libraries_are_no_functions_of_ours():
    """They would be called, and fail inside of PyTorch."""
    torch = pytest.importorskip("torch")
    for theirs, ours in [
        (torch.nn.MSELoss(), "MSELoss"),
        (torch.nn.functional.cross_entropy, "CrossEntropyLoss"),
        (torch.nn.SmoothL1Loss(), r"is HuberLoss\(delta=b\) divided by b"),
    ]:
        with pytest.raises(tw.ArgumentError, match=f"loss must be a Loss.*{ours}"):
            with_model(loss=theirs)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: optim.SGD().step(with_model()),
            tw.ArgumentError,
            "takes the model.*got a Trainer",
        ),
        (
            lambda: nn.Sequential({"a": nn.Linear(2, 1)}),
            tw.ArgumentError,
            r"it is a dict, .*Sequential\(\*layers\.values\(\)\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2) for _ in range(2)),
            tw.ArgumentError,
            r"it is a generator; unpack it: Sequential\(\*layers\)",
        ),
        (lambda: with_model().model.load_state_dict(None), tw.ArgumentError, "got a NoneType"),
        (
            lambda: nn.utils.clip_grad_norm_([np.ones(3)], 1.0),
            tw.ArgumentError,
            r"model must be an nn\.Sequential.*got a list",
        ),
        (lambda: nn.utils.clip_grad_value_(None, 1.0), tw.ArgumentError, "got a NoneType"),
        (lambda: nn.utils.clip_grad_norm_(np.array(3.0), 1.0), tw.ArgumentError, "got an ndarray"),
        (lambda: nn.utils.quantile_edges(["a", "b"]), tw.DtypeError, "column has dtype <U1"),
        (
            lambda: with_model().fit([[0.5, 1.0], [2.0, 3.0]]),
            tw.ArgumentError,
            "y is missing",
        ),
        (lambda: with_model().fit(lambda: None), tw.ArgumentError, "it returned None"),
        (
            lambda: with_model().fit([[1, 2]], [1], sample_weight="balanced"),
            tw.DtypeError,
            r"got 'balanced'\. For class weights, use nn\.CrossEntropyLoss",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], sample_weight={0: np.ones(9)}),
            tw.DtypeError,
            r"got a dict\. For class weights, use nn\.CrossEntropyLoss",
        ),
        (
            lambda: with_model().fit([[1, 2]], [1], sample_weight=[[1]]),
            tw.ShapeError,
            r"\(1, 1\): pass np\.array\(sample_weight\)\.ravel\(\)",
        ),
        (
            lambda: tw.find_lr(with_model(optimizer=optim.LBFGS()), [[1, 2]], [1]),
            tw.UnsupportedError,
            "LBFGS finds the length of its steps by itself",
        ),
        (
            lambda: nn.CrossEntropyLoss().predict([[0, 1], [1, np.nan]]),
            tw.DataError,
            r"output\[1, 1\] is NaN",
        ),
    ],
)
def test_what_is_given_in_the_place_of_something_else(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_an_error_of_many_fits_says_whose_it_was():
    x, y = np.ones((4, 2)), np.ones((4, 1))
    trainers = [with_model(), with_model(optimizer=optim.SGD(lr=1e30))]
    with pytest.raises(tw.DivergedError) as caught:
        tw.train_many(trainers, x, y, epochs=9)
    assert caught.value.__notes__ == ["This happened in the fit of trainers[1]."]


def test_a_last_batch_of_one_row_is_named_before_anything_is_trained():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = model.flat_parameters
    for loss, lr in itertools.product((nn.MSELoss(), lambda o, t: (0.0, 0 * o)), (None, "auto")):
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD())
        with pytest.raises(
            tw.ArgumentError, match=r"batch_size=4, the last batch of 9 rows .* only 1 row"
        ):  # nor is a rate looked for, which a loss of one's own would not allow
            trainer.fit(np.ones((9, 2)), np.ones((9, 1)), batch_size=4, lr=lr)
    np.testing.assert_array_equal(model.flat_parameters, before)


# --- classes of the user's own -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "name", "instead"),
    [
        (nn.MSELoss, "__call__", r"tw\.Trainer\(\.\.\., loss=function\)"),
        (nn.Loss, "__call__", r"tw\.Trainer\(\.\.\., loss=function\)"),
        (nn.Loss, "call", "nn.CustomLoss"),  # Keras
        (nn.CustomLoss, "__call__", "nn.CustomLoss"),
        (nn.CrossEntropyLoss, "forward", "nn.CustomLoss"),
        (nn.ReLU, "forward", "in a hand-written loop"),
        (nn.Layer, "__call__", "in a hand-written loop"),
        (nn.Sequential, "forward", r"model\.forward and model\.backward"),
        (nn.Sequential, "__call__", "prepare data before"),
        (optim.SGD, "step", r"trainer\.backward\(x, y\).*model\.flat_gradients"),
        (optim.Optimizer, "step", "a hand-written loop"),
        (optim.Adam, "update_step", "a hand-written loop"),  # Keras
        (optim.schedules.Schedule, "__call__", r"schedules\.LambdaLR\(lambda t: \.\.\.\)"),
        (optim.schedules.StepLR, "get_lr", "LambdaLR"),
        (tw.Trainer, "step", r"on_step_end.*trainer\.update\(\)"),
        (tw.Trainer, "training_step", "on_step_end"),  # Lightning
    ],
)
def test_methods_that_would_never_be_called_are_refused(base, name, instead):
    """A fit is in the core, and would go on as if they were not there."""

    def method(self, *args):
        """One of the user's own."""

    message = rf"^Mine\.{name} would not be called.*{instead}"
    with pytest.raises(TypeError, match=message):
        type("Mine", (base,), {name: method})
    mixed = type("Mixed", (), {name: method})
    with pytest.raises(TypeError, match=message):
        type("Mine", (mixed, base), {})


def test_classes_of_the_users_own_may_have_other_methods():
    class Net(nn.Sequential):
        def __init__(self, hidden):
            super().__init__(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 1))

        def predict(self, x):
            return self(x)[:, 0]

        def save(self, path):
            super().save(path)

    class Scored(tw.Trainer):
        def evaluate(self, x, y=None, sample_weight=None):
            return {**super().evaluate(x, y, sample_weight), "more": 1.0}

    class Slow(optim.SGD):
        def slow_down(self):
            self.lr *= 0.5

    trainer = Scored(Net(3), loss=nn.MSELoss(), optimizer=Slow(lr=0.1))
    trainer.fit(np.ones((4, 2)), np.ones(4))
    trainer.optimizer.slow_down()
    assert trainer.evaluate(np.ones((4, 2)), np.ones(4))["more"] == 1
    assert trainer.model.predict(np.ones((4, 2))).shape == (4,)


class Bare(nn.Layer):
    """A layer that says nothing."""


class Nothing(nn.Loss):
    """A loss that computes nothing."""


class Never(optim.schedules.Schedule):
    """A schedule without rates."""


class Duck:
    """What would be an optimizer elsewhere."""

    def step(self, model):
        """Go nowhere."""


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(2, 1), Bare()),
            tw.UnsupportedError,
            "is a custom layer: layers",
        ),
        (lambda: with_model(loss=Nothing()), tw.ArgumentError, "a custom loss is a function"),
        (lambda: nn.CustomLoss(Nothing()), tw.ArgumentError, "a custom loss is a function"),
        (lambda: Nothing()([[1]], [[1]]), tw.UnsupportedError, "a custom loss is a function"),
        (
            lambda: with_model(schedule=Never()).fit([[1, 2]], [1]),
            tw.UnsupportedError,
            r"schedules\.LambdaLR",
        ),
        (
            lambda: with_model(optimizer=Duck()),
            tw.ArgumentError,
            "your own rule as a hand-written loop",
        ),
    ],
)
def test_what_is_derived_from_bases_says_what_there_is_instead(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_a_pass_in_evaluation_is_advised_where_backward_has_none():
    model = nn.Sequential(nn.Linear(2, 1))
    model([[1, 2]])  # keeps nothing
    advice = r"model\(x\) records nothing.*model\.forward\(x, training=False\) first"
    with pytest.raises(tw.ArgumentError, match=advice):
        model.backward([[1]])


class Tensor:
    """As PyTorch's that NumPy is not given."""

    def __init__(self, dtype, requires_grad):
        self.dtype, self.requires_grad = dtype, requires_grad

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy()") if self.requires_grad else TypeError("BFloat16")


@pytest.mark.parametrize(
    ("tensor", "written"),
    [
        (Tensor("torch.float32", True), r"x\.detach\(\)"),
        (Tensor("torch.bfloat16", False), r"x\.float\(\)"),
        (Tensor("torch.bfloat16", True), r"x\.detach\(\)\.float\(\)"),
    ],
)
def test_tensors_that_become_no_array(tensor, written):
    with pytest.raises(tw.DtypeError, match=rf": pass {written}$"):
        nn.Sequential(nn.Linear(2, 1))(tensor)


#: Where users find functions.
PLACES = (
    tw.curvature, tw.solve, tw.diagnostics, continual, continual.metrics, tw.plot, tw.datasets
)  # fmt: skip
#: What they may call, except methods, and classes that are only results.
CALLED = [
    *(tw.gradcheck, tw.gradgradcheck, tw.check_gradient, tw.check_hvp),
    *(tw.find_lr, optim.minimize, tw.set_num_threads, tw.show_config),
    *(curvature.Operator, curvature.StabilityMonitor, tw.diagnostics.BalanceMonitor),
    *(continual.Task, continual.Scenario),
    *(continual.ReservoirBuffer, continual.RecentBuffer, continual.BalancedBuffer),
    *(nn.Residual, nn.TabularInput, nn.Standardize, nn.Standardize.of, nn.utils.quantile_edges),
    *(tw.torch.to_torch, tw.torch.from_torch, tw.torch.residual),
    *(
        thing
        for place in PLACES
        for name in dir(place)
        if inspect.isfunction(thing := getattr(place, name)) and not name.startswith("_")
    ),
]


@pytest.mark.parametrize("function", CALLED, ids=lambda it: f"{it.__module__}.{it.__name__}")
def test_unknown_arguments_are_answered_with_those_there_are(function):
    """Before anything else is looked at."""
    several = inspect.Parameter.VAR_POSITIONAL
    arguments = inspect.signature(function).parameters.values()
    names = ["*" * (it.kind is several) + it.name for it in arguments]
    known = re.escape(", ".join(names)) or "no arguments"
    message = rf"{function.__name__} has no argument 'nonsense'\. .* takes {known}$"
    with pytest.raises(TypeError, match=message):
        function(nonsense=1)


def test_one_missing_argument_is_a_type_error_everywhere():
    trainer = tw.Trainer(nn.Sequential(nn.Linear(1, 1)), loss=nn.MSELoss(), optimizer=optim.SGD())
    for call in (
        lambda: nn.Linear(1),
        lambda: tw.solve.ridge([[1.0]], [1.0]),
        lambda: continual.ReservoirBuffer(),
        lambda: continual.EWC(trainer),
        lambda: continual.Task([[1.0]], [1.0]),
        lambda: continual.run(trainer),
    ):
        with pytest.raises(TypeError, match=r"needs|missing"):
            call()


@pytest.mark.parametrize("module", [continual.metrics, tw.datasets])
def test_a_module_shows_what_it_is_for(module):
    """And not what it imports."""
    assert dir(module) == sorted(module.__all__)
    for name in dir(module):
        assert getattr(module, name).__module__.startswith("thalweg.")


class OwnBuffer(continual.ReservoirBuffer):
    @property
    def share(self):
        return self.nothing / self.capacity

    def __len__(self):
        return len(self.stuff)


class OwnStrategy(continual.Strategy):
    @property
    def share(self):
        return self.nothing


class OwnOptimizer(optim.SGD):
    @functools.cached_property
    def share(self):
        return self.nothing


class OwnTrainer(tw.Trainer):
    @property
    def share(self):
        return (1).nothing


def own_trainer():
    model = nn.Sequential(nn.Linear(2, 2))
    return OwnTrainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())


@pytest.mark.parametrize(
    ("make", "of"),
    [
        (lambda: OwnBuffer(3), "OwnBuffer"),
        (lambda: OwnStrategy(own_trainer()), "OwnStrategy"),
        (OwnOptimizer, "OwnOptimizer"),
        (own_trainer, "'int' object"),
    ],
)
def test_what_a_property_of_one_s_own_lacks_is_what_is_said(make, of):
    with pytest.raises(AttributeError, match=f"^{of} has no attribute 'nothing'") as caught:
        _ = make().share
    assert any("nothing" in str(entry.statement) for entry in caught.traceback)
    with pytest.raises(AttributeError, match="has no attribute 'stuff'"):
        len(OwnBuffer(3))
