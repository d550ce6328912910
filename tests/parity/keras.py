"""The optimizers of Keras, from the formulas of its manual."""

import numpy as np

from thalweg import optim


class Keras:
    """The formulas of Keras' manual. `a`, `b`, `c` are what a method remembers."""

    a = b = c = 0.0
    product = 1.0

    def __init__(self, rule, lr, weight_decay=0.0, **options):
        self.rule, self.lr, self.weight_decay = rule, lr, weight_decay
        self.options = options

    def step(self, theta, g, t):
        theta = theta - theta * self.weight_decay * self.lr
        return theta + self.rule(self, g, t, **self.options)

    def average(self, g, t, betas):
        self.a = self.a + (g - self.a) * (1 - betas[0])
        self.b = self.b + (g**2 - self.b) * (1 - betas[1])
        return 1 - betas[0] ** t, 1 - betas[1] ** t

    def sgd(self, g, t, momentum=0.0, nesterov=False):
        self.a = momentum * self.a - self.lr * g
        return momentum * self.a - self.lr * g if nesterov else self.a

    def adagrad(self, g, t, initial_accumulator_value=0.1, eps=1e-7):
        self.a = (initial_accumulator_value if t == 1 else self.a) + g**2
        return -self.lr * g / np.sqrt(self.a + eps)

    def rmsprop(self, g, t, alpha=0.9, eps=1e-7, momentum=0.0, centered=False):
        self.a = alpha * self.a + (1 - alpha) * g**2
        self.b = alpha * self.b + (1 - alpha) * g
        variance = self.a - self.b**2 if centered else self.a
        self.c = momentum * self.c + self.lr * g / np.sqrt(variance + eps)
        return -self.c

    def adadelta(self, g, t, rho=0.95, eps=1e-7):
        self.a = rho * self.a + (1 - rho) * g**2
        delta = -np.sqrt(self.b + eps) * g / np.sqrt(self.a + eps)
        self.b = rho * self.b + (1 - rho) * delta**2
        return self.lr * delta

    def adam(self, g, t, betas=(0.9, 0.999), eps=1e-7, amsgrad=False):
        mean, square = self.average(g, t, betas)
        self.c = np.maximum(self.c, self.b)
        root = np.sqrt(self.c if amsgrad else self.b)
        return -self.lr * np.sqrt(square) / mean * self.a / (root + eps)

    def adamax(self, g, t, betas=(0.9, 0.999), eps=1e-7):
        self.a = self.a + (g - self.a) * (1 - betas[0])
        self.b = np.maximum(betas[1] * self.b, np.abs(g))
        return -self.lr * self.a / ((1 - betas[0] ** t) * (self.b + eps))

    def nadam(self, g, t, betas=(0.9, 0.999), eps=1e-7):
        _, square = self.average(g, t, betas)
        u, ahead = (betas[0] * (1 - 0.5 * 0.96**s) for s in (t, t + 1))
        self.product *= u
        mean = ahead * self.a / (1 - self.product * ahead) + (1 - u) * g / (1 - self.product)
        return -self.lr * mean / (np.sqrt(self.b / square) + eps)

    def lion(self, g, t, betas=(0.9, 0.99)):
        sign = np.sign(self.a * betas[0] + g * (1 - betas[0]))
        self.a = self.a * betas[1] + g * (1 - betas[1])
        return -self.lr * sign


KERAS = [
    (optim.SGD, Keras.sgd, {"lr": 0.05}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "weight_decay": 0.1}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.SGD, Keras.sgd, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1, "initial_accumulator_value": 1, "eps": 0.1}),
    (optim.Adagrad, Keras.adagrad, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.RMSprop, Keras.rmsprop, {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-4}),
    (optim.Adadelta, Keras.adadelta, {"lr": 0.5}),
    (optim.Adadelta, Keras.adadelta, {"lr": 1, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, Keras.adam, {"lr": 0.01}),
    (optim.Adam, Keras.adam, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1}),
    (optim.Adam, Keras.adam, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True}),
    (optim.AdamW, Keras.adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (optim.NAdam, Keras.nadam, {"lr": 0.01}),
    (optim.NAdam, Keras.nadam, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    (optim.Adamax, Keras.adamax, {"lr": 0.01}),
    (optim.Adamax, Keras.adamax, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1}),
    (optim.Lion, Keras.lion, {"lr": 0.01, "weight_decay": 0.1}),
]
