"""Losses that are likelihoods of numbers and counts, beside PyTorch's."""

from thalweg import nn


def gaussian(torch, **options):
    loss = torch.nn.GaussianNLLLoss(**options)

    def f(o, t):
        k = t.shape[1]
        return loss(o[:, :k], t, o[:, k:].exp())

    return f


# (ours, how to make theirs, which targets)
TWINS = {
    "Gaussian": (nn.GaussianNLLLoss(), gaussian, "half"),
    "Gaussian, full": (
        nn.GaussianNLLLoss(full=True, eps=0.5),  # so large that some variances are below
        lambda t: gaussian(t, full=True, eps=0.5),
        "half",
    ),
    "Gaussian, sum": (
        nn.GaussianNLLLoss(reduction="sum"),
        lambda t: gaussian(t, reduction="sum"),
        "half",
    ),
    "Poisson": (nn.PoissonNLLLoss(), lambda t: t.nn.PoissonNLLLoss(), "counts"),
    "Poisson, full": (
        nn.PoissonNLLLoss(full=True, reduction="sum"),
        lambda t: t.nn.PoissonNLLLoss(full=True, reduction="sum"),
        "counts",
    ),
    "Poisson of rates": (  # with so large an eps that the rate may be any of those that occur
        nn.PoissonNLLLoss(log_input=False, full=True, eps=30),
        lambda t: t.nn.PoissonNLLLoss(log_input=False, full=True, eps=30),
        "counts",
    ),
}
