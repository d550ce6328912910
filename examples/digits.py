"""Train a small network on real handwritten digits, check its gradient, and draw what happened.

Needs scikit-learn, matplotlib and tqdm:  pip install scikit-learn matplotlib tqdm
"""

import thalweg as tw
from thalweg import nn, optim


def make_model(seed):
    return nn.Sequential(
        nn.Linear(64, 128, init="kaiming_normal"),
        nn.ReLU(),
        nn.Linear(128, 64, init="kaiming_normal"),
        nn.ReLU(),
        nn.Linear(64, 10, init="kaiming_normal"),
        seed=seed,
    )


histories = []
for seed in range(3):
    x_train, y_train, x_test, y_test = tw.datasets.digits(seed=seed)  # a third is held out
    model = make_model(seed)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.AdamW(lr=5e-3))
    history = trainer.fit(
        x_train,
        y_train,
        epochs=40,
        batch_size=32,
        validation_data=(x_test, y_test),
        progress=True,
    )
    histories.append(history)
    seconds, steps = sum(history["seconds"]), history.epochs * -(-len(x_train) // 32)
    print(
        f"seed {seed}: held-out accuracy {history['val_accuracy'][-1]:.2%}, "
        f"{seconds / steps * 1e6:.1f} us per step"
    )
mean = sum(history["val_accuracy"][-1] for history in histories) / len(histories)
print(f"mean held-out accuracy: {mean:.2%}")

report = tw.gradcheck(make_model(0), x_train[:16], y_train[:16], loss=nn.CrossEntropyLoss())
print(report)

predicted = model(x_test).argmax(axis=1)  # for the last seed
tw.plot.training(histories, x_test, y_test, predicted, "thalweg-digits.png")
