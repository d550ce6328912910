"""Losses of classes, beside PyTorch's; heads and active classes by logits of -inf."""

from thalweg import nn

K = 4
W = [0.5, 2.0, 0.0, 1.25]


def distillation(torch, temperature):
    f = torch.nn.functional

    def loss(o, t):
        p, q = (o / temperature).log_softmax(1), (t / temperature).softmax(1)
        return temperature**2 * f.kl_div(p, q, reduction="batchmean")

    return loss


def heads(torch, sizes=(K,), active=None, **options):
    """Masks logits with -inf, of all classes that do not compete with the label."""
    loss = torch.nn.CrossEntropyLoss(reduction="none", **options)
    weight = options.get("weight")

    def f(o, t):
        k = o.shape[1]
        of_column = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        competes = torch.zeros(k, dtype=torch.bool)
        competes[list(range(k) if active is None else active)] = True
        counts = t != loss.ignore_index
        row = of_column[torch.where(counts, t, 0)]
        o = o.masked_fill(~(competes & (of_column == row[:, None])), -torch.inf)
        divisor = (weight[t[counts]] if weight is not None else torch.ones(int(counts.sum()))).sum()
        return loss(o, t).sum() / divisor

    return f


# (ours, how to make theirs, which targets)
TWINS = {
    "CE": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "labels"),
    "CE, sum": (
        nn.CrossEntropyLoss(reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(reduction="sum"),
        "labels",
    ),
    "CE, weighted": (
        nn.CrossEntropyLoss(W),
        lambda t: t.nn.CrossEntropyLoss(t.tensor(W, dtype=t.float64)),
        "labels",
    ),
    "CE, some ignored": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "some labels"),
    "CE, a class ignored": (
        nn.CrossEntropyLoss(ignore_index=1),
        lambda t: t.nn.CrossEntropyLoss(ignore_index=1),
        "labels",
    ),
    "CE, smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda t: t.nn.CrossEntropyLoss(label_smoothing=0.1),
        "labels",
    ),
    "CE, all at once": (
        nn.CrossEntropyLoss(W, ignore_index=-1, label_smoothing=0.3),
        lambda t: t.nn.CrossEntropyLoss(
            t.tensor(W, dtype=t.float64), ignore_index=-1, label_smoothing=0.3
        ),
        "labels, some -1",
    ),
    "CE, all at once, sum": (
        nn.CrossEntropyLoss(W, ignore_index=-1, label_smoothing=0.3, reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(
            t.tensor(W, dtype=t.float64), ignore_index=-1, label_smoothing=0.3, reduction="sum"
        ),
        "labels, some -1",
    ),
    "CE, heads": (
        nn.CrossEntropyLoss(heads=(1, 3)),
        lambda t: heads(t, (1, 3)),
        "labels",
    ),
    "CE, heads, all at once": (
        nn.CrossEntropyLoss(W, ignore_index=-1, heads=(2, 2)),
        lambda t: heads(t, (2, 2), weight=t.tensor(W, dtype=t.float64), ignore_index=-1),
        "labels, some -1",
    ),
    "CE, active": (
        nn.CrossEntropyLoss(active=(3, 0)),
        lambda t: heads(t, active=(0, 3)),
        "labels 0 and 3",
    ),
    "CE, heads, active, weighted": (
        nn.CrossEntropyLoss(W, heads=(3, 1), active=(3, 0, 2)),
        lambda t: heads(t, (3, 1), (0, 2, 3), weight=t.tensor(W, dtype=t.float64)),
        "labels 0 and 3",
    ),
    "CE of shares": (nn.CrossEntropyLoss(), lambda t: t.nn.CrossEntropyLoss(), "shares"),
    "CE of shares, weighted, smoothed": (
        nn.CrossEntropyLoss(W, label_smoothing=0.2),
        lambda t: t.nn.CrossEntropyLoss(t.tensor(W, dtype=t.float64), label_smoothing=0.2),
        "shares",
    ),
    "CE of shares, sum": (
        nn.CrossEntropyLoss(reduction="sum"),
        lambda t: t.nn.CrossEntropyLoss(reduction="sum"),
        "shares",
    ),
    "BCE": (nn.BCEWithLogitsLoss(), lambda t: t.nn.BCEWithLogitsLoss(), "probabilities"),
    "BCE of zeros and ones": (
        nn.BCEWithLogitsLoss(reduction="sum"),
        lambda t: t.nn.BCEWithLogitsLoss(reduction="sum"),
        "bits",
    ),
    "BCE, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=W),
        lambda t: t.nn.BCEWithLogitsLoss(pos_weight=t.tensor(W, dtype=t.float64)),
        "probabilities",
    ),
    "BCE, one weight": (
        nn.BCEWithLogitsLoss(pos_weight=3),
        lambda t: t.nn.BCEWithLogitsLoss(pos_weight=t.tensor(3.0, dtype=t.float64)),
        "bits",
    ),
    "distillation": (nn.DistillationLoss(), lambda t: distillation(t, 2.0), "numbers"),
    "distillation, hot": (nn.DistillationLoss(5), lambda t: distillation(t, 5), "numbers"),
}
