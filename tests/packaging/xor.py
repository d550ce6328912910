"""Train XOR with nothing but thalweg and NumPy, and fail if it was not learnt."""

import sys

import numpy as np

import thalweg as tw
from thalweg import nn, optim


def main() -> None:
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    y = np.array([0, 1, 1, 0])
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2), seed=0)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.05))
    history = trainer.fit(x, y, epochs=200, batch_size=4)
    answers = model(x).argmax(axis=1)
    first, last = history["loss"][0], history["loss"][-1]
    print(f"XOR: loss {first:.3f} -> {last:.4f}, answers {answers.tolist()}")
    if not (np.array_equal(answers, y) and last < 0.05):
        sys.exit(f"XOR was not learnt: expected {y.tolist()} and a loss below 0.05")


if __name__ == "__main__":
    main()
