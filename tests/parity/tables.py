"""Which optimizer is compared with what: settings, and the small network that they are for."""

from thalweg import nn, optim

STEPS, SAVED, CHANGED = 200, 90, 130
FACTOR = 0.3  # of the learning rate from step CHANGED on
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def name(value):
    return repr(value) if isinstance(value, dict) else getattr(value, "__name__", None)


def make(dtype="float64"):
    """70 parameters: whole vectors and remainders on every instruction set."""
    layers = [nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)]
    return nn.Sequential(*layers, dtype=dtype, seed=1)


def blocks(flat):
    """Cut into arrays as the network does."""
    parts, start = [], 0
    for array in make().state_dict().values():
        parts.append(flat[start : start + array.size].reshape(array.shape))
        start += array.size
    return parts


# --- PyTorch -----------------------------------------------------------------------------------

# Options are given to both as they are: names and defaults must be the same, too.
TORCH = [
    (optim.SGD, {}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.9, "weight_decay": 0.1}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adagrad, {}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1}),
    (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 0.1}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "weight_decay": 0.1}),
    (optim.RMSprop, {"momentum": 0.9}),
    (optim.RMSprop, {"centered": True}),
    (optim.RMSprop, {"centered": True, "momentum": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Adadelta, {}),
    (optim.Adadelta, {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, {}),
    (optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Adam, {"amsgrad": True}),
    (optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.AdamW, {}),
    (optim.AdamW, {"lr": 0.005, "betas": (0.5, 0.9), "weight_decay": 0.3, "amsgrad": True}),
    (optim.NAdam, {}),
    (optim.NAdam, {"betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.1}),
    (optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-2}),
    (optim.RAdam, {}),
    (optim.RAdam, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-2}),
    (optim.RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.RAdam, {"betas": (0.9, 0.5)}),  # never rectified
    (optim.Adamax, {}),
    (optim.Adamax, {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    (optim.Rprop, {}),
    (optim.Rprop, {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.1)}),
    (optim.Adafactor, {}),
    (optim.Adafactor, {"lr": 0.2, "weight_decay": 0.1}),
    (optim.Adafactor, {"lr": 0.2, "beta2_decay": -0.5, "eps": (0.1, 0.5), "d": 1.5}),
]


# --- Optax -------------------------------------------------------------------------------------


def decayed(optax, weight_decay, rest):
    """Weight decay added to the gradient."""
    return optax.chain(optax.add_decayed_weights(weight_decay), rest)


def adafactor(o, lr, min_dim=128, weight_decay=None, tau=0.8, d=1.0, eps=1e-30):
    """``optax.adafactor``, but for the decay rate, which that computes in float32 always."""
    from optax._src import factorized

    scale = factorized.scale_by_factored_rms(
        True, tau, 0, min_dim, eps, decay_rate_fn=lambda t, power: 1 - (t + 1.0) ** -power
    )
    steps = [scale, o.clip_by_block_rms(d), o.scale_by_learning_rate(lr, flip_sign=False)]
    steps.append(o.scale_by_param_block_rms())
    if weight_decay is not None:
        steps.append(o.add_decayed_weights(weight_decay))
    return o.chain(*steps, o.scale(-1))


def muon(o, lr, adam_weight_decay, **options):
    """Weights as (out, in)."""
    import jax

    wide = o.contrib.MuonDimensionNumbers(1, 0)

    def dimensions(params):
        return jax.tree.map(lambda p: wide if p.ndim == 2 else None, params)

    options["muon_weight_dimension_numbers"] = dimensions
    return o.contrib.muon(lr, adam_weight_decay=adam_weight_decay, **options)


# Ours; Optax' own, given the module and the learning rate. Options that are missing are defaults.
OPTAX = [
    (optim.SGD, {"lr": 0.05}, lambda o, lr: o.sgd(lr)),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}, lambda o, lr: o.sgd(lr, 0.9)),
    (
        optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.sgd(lr, 0.9, nesterov=True)),
    ),
    (optim.Adagrad, {"lr": 0.1}, lambda o, lr: o.adagrad(lr)),
    (
        optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.adagrad(lr, 0.5, 0.1)),
    ),
    (optim.RMSprop, {"lr": 0.01}, lambda o, lr: o.rmsprop(lr)),
    (
        optim.RMSprop,
        {"lr": 0.01, "alpha": 0.95, "eps": 1e-2, "momentum": 0.9},
        lambda o, lr: o.rmsprop(lr, 0.95, 1e-2, momentum=0.9),
    ),
    (
        optim.RMSprop,
        {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-4},
        lambda o, lr: o.rmsprop(lr, eps=1e-4, centered=True, momentum=0.5),
    ),
    (optim.Adadelta, {"lr": 0.5}, lambda o, lr: o.adadelta(lr)),
    (
        optim.Adadelta,
        {"lr": 1, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
        lambda o, lr: o.adadelta(lr, 0.8, 1e-3, 0.1),
    ),
    (optim.Adam, {"lr": 0.01}, lambda o, lr: o.adam(lr)),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}, lambda o, lr: o.amsgrad(lr)),
    (
        optim.Adam,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-2, "amsgrad": True, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.amsgrad(lr, 0.5, 0.9, 1e-2)),
    ),
    (optim.AdamW, {"lr": 0.01}, lambda o, lr: o.adamw(lr)),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.3}, lambda o, lr: o.adamw(lr, weight_decay=0.3)),
    (optim.NAdam, {"lr": 0.01}, lambda o, lr: o.nadam(lr)),
    (
        optim.NAdam,
        {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.3, "decoupled_weight_decay": True},
        lambda o, lr: o.nadamw(lr, 0.5, 0.9, weight_decay=0.3),
    ),
    (optim.RAdam, {"lr": 0.01}, lambda o, lr: o.radam(lr)),
    (
        optim.RAdam,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.radam(lr, 0.5, 0.9, 0.1)),
    ),
    (optim.Adamax, {"lr": 0.01}, lambda o, lr: o.adamax(lr)),
    (
        optim.Adamax,
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1},
        lambda o, lr: decayed(o, 0.1, o.adamax(lr, 0.5, 0.9, 0.1)),
    ),
    (optim.Lion, {"lr": 0.01}, lambda o, lr: o.lion(lr, weight_decay=0)),
    (
        optim.Lion,
        {"lr": 0.01, "betas": (0.5, 0.8), "weight_decay": 0.3},
        lambda o, lr: o.lion(lr, 0.5, 0.8, weight_decay=0.3),
    ),
    (optim.LAMB, {"lr": 0.01}, lambda o, lr: o.lamb(lr, weight_decay=0.01)),
    (
        optim.LAMB,
        {"lr": 0.03, "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0.3},
        lambda o, lr: o.lamb(lr, 0.5, 0.8, 0.1, weight_decay=0.3),
    ),
    (optim.Adafactor, {"lr": 0.005}, lambda o, lr: adafactor(o, lr)),
    (
        optim.Adafactor,
        {"lr": 0.005, "min_dim_size_to_factor": 1},
        lambda o, lr: adafactor(o, lr, 1),
    ),
    (
        optim.Adafactor,
        {
            "lr": 0.005,
            "beta2_decay": -0.5,
            "eps": (1e-4, 1e-3),
            "d": 2,
            "weight_decay": 1e-3,
            "min_dim_size_to_factor": 5,
        },
        lambda o, lr: adafactor(o, lr, 5, 1e-3, 0.5, 2, 1e-4),
    ),
    (
        optim.Muon,
        {"lr": 0.001, "matrices": "all", "adam_betas": (0.9, 0.999), "eps": 1e-8},
        lambda o, lr: muon(o, lr, 0.1, weight_decay=0.1),
    ),
    (
        optim.Muon,
        {
            "lr": 0.01,
            "matrices": "all",
            "momentum": 0.8,
            "nesterov": False,
            "weight_decay": 0.0,
            "adjust_lr_fn": "match_rms_adamw",
            "ns_coefficients": (2, -1.5, 0.5),
            "ns_steps": 4,
            "eps": 0.1,
            "adam_eps": 0.1,
            "adam_betas": (0.5, 0.9),
        },
        lambda o, lr: muon(
            o,
            lr,
            0.0,
            beta=0.8,
            nesterov=False,
            consistent_rms=0.2,
            ns_steps=4,
            eps=0.1,
            ns_coeffs=(2.0, -1.5, 0.5),
            adam_b1=0.5,
            adam_b2=0.9,
        ),
    ),
    (
        optim.ScheduleFreeAdamW,
        {"lr": 0.01},
        lambda o, lr: o.contrib.schedule_free_adamw(lr),
    ),
    (
        optim.ScheduleFreeAdamW,
        {"lr": 0.02, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.3, "weight_lr_power": 1},
        lambda o, lr: o.contrib.schedule_free_adamw(
            lr, b1=0.7, b2=0.9, eps=0.1, weight_decay=0.3, weight_lr_power=1
        ),
    ),
    (
        optim.Prodigy,
        {"lr": 0.2, "d0": 1e-3, "eps": 1e-2, "use_bias_correction": True},
        lambda o, lr: o.contrib.prodigy(lr, estim_lr0=1e-3, eps=1e-2),
    ),
    (
        optim.Prodigy,
        {
            "lr": 0.1,
            "betas": (0.8, 0.95),
            "beta3": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "d0": 1e-4,
            "d_coef": 1.5,
            "use_bias_correction": True,
            "safeguard_warmup": True,
        },
        lambda o, lr: o.contrib.prodigy(lr, (0.8, 0.95), 0.9, 1e-3, 1e-4, 1.5, 0.1, True),
    ),
    # The convention of AMSGrad's paper.
    (
        optim.Adam,
        {"lr": 0.001, "amsgrad": True, "convention": "textbook"},
        lambda o, lr: o.amsgrad(lr, bias_correction_mu=False, bias_correction_nu=False),
    ),
]


# --- Chaos -------------------------------------------------------------------------------------

BOTH = ("float64", "float32")
#: Trainings of the network in which rounding errors grow beyond the tolerance, in the peer itself
#: (`runs.assert_same_path` sees that they do): by row of the table, in which dtypes. Quotients of
#: gradients that vanish do it, where eps is small, and steps that are signs. Elsewhere no
#: allowance is made.
CHAOTIC = {
    "torch": {10: ("float32",), 34: ("float32",)},
    "optax": {5: BOTH, 7: BOTH, 16: BOTH, 21: ("float32",), 24: BOTH},
    "keras": {7: BOTH, 8: BOTH, 9: BOTH, 17: BOTH},
}
