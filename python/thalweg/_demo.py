"""The demonstration: real digits, end to end, compared with scikit-learn on the same work.

No network sees a held-out digit during training, and the figures printed are those of the last
epoch, not of the best. The settings (initialization, learning rate, batch size, epochs) are among
the best in a cross-validation within the training part of the first split. Held-out accuracies of
several splits were seen when choosing them, so this is a demonstration and not a benchmark of
generalization. A seed determines a split and a network.
"""

import importlib.util
import statistics
import time
import warnings

from thalweg import datasets, nn, optim, plot
from thalweg._config import get_num_threads, show_config
from thalweg._gradcheck import GradcheckReport, gradcheck
from thalweg._trainer import Trainer

SEEDS = (0, 1, 2)
EPOCHS = 40
BATCH_SIZE = 32
LEARNING_RATE = 5e-3
PICTURE = "thalweg-digits.png"
#: Packages that the demonstration imports, and their names on PyPI.
NEEDS = {"sklearn": "scikit-learn", "tqdm": "tqdm", "matplotlib": "matplotlib"}

#: Rounds and epochs of the comparison; the two libraries alternate, and the median round counts.
ROUNDS = 5
ROUND_EPOCHS = 10


def make_model(seed: int) -> nn.Sequential:
    """Make the demonstration's network, 64-128-64-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(64, 128, init="kaiming_normal"),
        nn.ReLU(),
        nn.Linear(128, 64, init="kaiming_normal"),
        nn.ReLU(),
        nn.Linear(64, 10, init="kaiming_normal"),
        seed=seed,
    )


def train(data: datasets.Digits, seed: int, *, epochs: int = EPOCHS, progress: bool) -> Trainer:
    """Train one network, monitored but not guided by the held-out digits."""
    trainer = Trainer(
        make_model(seed), loss=nn.CrossEntropyLoss(), optimizer=optim.AdamW(lr=LEARNING_RATE)
    )
    trainer.fit(
        data.x_train,
        data.y_train,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=(data.x_test, data.y_test),
        progress=progress,
    )
    return trainer


def check(data: datasets.Digits) -> GradcheckReport:
    """Check the gradient of a fresh network."""
    rows = slice(0, 16)
    return gradcheck(
        make_model(SEEDS[0]), data.x_train[rows], data.y_train[rows], loss=nn.CrossEntropyLoss()
    )


def compare(data: datasets.Digits) -> tuple[float, float]:
    """Time one training step, here and in scikit-learn.

    Both train the same widths in float32 with Adam, without weight decay, on the same data in
    shuffled batches of the same size, and report the loss of every epoch.

    Returns
    -------
    tuple of two floats
        Seconds per step of thalweg and of scikit-learn: medians over alternating rounds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    steps = ROUND_EPOCHS * -(-len(data.x_train) // BATCH_SIZE)
    ours, theirs = [], []
    for seed in range(ROUNDS):
        start = time.perf_counter()
        Trainer(
            make_model(seed), loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=LEARNING_RATE)
        ).fit(data.x_train, data.y_train, epochs=ROUND_EPOCHS, batch_size=BATCH_SIZE)
        ours.append((time.perf_counter() - start) / steps)

        peer = MLPClassifier(
            (128, 64),
            alpha=0.0,
            batch_size=BATCH_SIZE,
            learning_rate_init=LEARNING_RATE,
            max_iter=ROUND_EPOCHS,
            n_iter_no_change=ROUND_EPOCHS + 1,
            random_state=seed,
        )
        start = time.perf_counter()
        with warnings.catch_warnings():  # deliberately stopped before it converges
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(data.x_train, data.y_train)
        theirs.append((time.perf_counter() - start) / steps)
    return statistics.median(ours), statistics.median(theirs)


def main() -> None:
    """Train, check, compare and plot; print the results."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:  # before training, not when it is time to plot
        raise ImportError(
            f"the demonstration needs {', '.join(NEEDS.values())}, and not all are installed: pip "
            f"install {' '.join(NEEDS.values())}"
        )
    splits = [datasets.digits(seed=seed) for seed in SEEDS]
    data = splits[0]
    config = show_config("dicts")
    print(
        f"digits: {len(data.x_train)} to train on, {len(data.x_test)} held out; "
        f"64-128-64-10, ReLU, AdamW, {EPOCHS} epochs, batches of {BATCH_SIZE}; "
        f"{config['isa']}, {get_num_threads()} threads",
        flush=True,
    )

    trainers = []
    for seed, split in zip(SEEDS, splits, strict=True):
        trainer = train(split, seed, progress=True)
        accuracy = trainer.history["val_accuracy"][-1]
        seconds = sum(trainer.history["seconds"])
        print(f"seed {seed}: held-out accuracy {accuracy:.2%} after {seconds:.2f} s", flush=True)
        trainers.append(trainer)
    accuracies = [trainer.history["val_accuracy"][-1] for trainer in trainers]
    print(f"mean held-out accuracy: {statistics.mean(accuracies):.2%}", flush=True)

    print("\ngradient check, in float64:", flush=True)
    report = check(data)
    print(report, flush=True)

    ours, theirs = compare(data)
    print(
        f"\ntime per step: thalweg {ours * 1e6:.1f} us, "
        f"scikit-learn MLPClassifier {theirs * 1e6:.1f} us, {theirs / ours:.1f} times as long"
    )

    predicted = trainers[0].model(data.x_test).argmax(axis=1)
    histories = [trainer.history for trainer in trainers]
    try:
        plot.training(histories, data.x_test, data.y_test, predicted, PICTURE)
    except OSError as error:
        raise OSError(
            f"{PICTURE} cannot be written here: {error.strerror}; run this in another folder"
        ) from None
    print(f"loss curves and misclassified digits: {PICTURE}")
