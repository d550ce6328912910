"""Every strategy, for the tests of what is true of all of them."""

from thalweg import continual
from thalweg.continual import BalancedBuffer, Replay

from ..helpers import kinds_in

#: As it is made of a trainer and a scenario.
STRATEGIES = {
    "Naive": lambda t, s: continual.Naive(t),
    "FromScratch": lambda t, s: continual.FromScratch(t),
    "Cumulative": continual.Cumulative,
    "Joint": continual.Joint,
    "EWC": lambda t, s: continual.EWC(t, 10),
    "OnlineEWC": lambda t, s: continual.OnlineEWC(t, 10, decay=0.9, fisher="sampled"),
    "SynapticIntelligence": lambda t, s: continual.SynapticIntelligence(t, 1000),
    "MAS": lambda t, s: continual.MAS(t, 100),
    "RWalk": lambda t, s: continual.RWalk(t, 100, every=2),
    "L2": lambda t, s: continual.L2(t, 1),
    "L2Init": lambda t, s: continual.L2Init(t, 1),
    "OnlineLaplace": lambda t, s: continual.OnlineLaplace(t, 1),
    "LwF": lambda t, s: continual.LwF(t),
    "Replay": lambda t, s: Replay(t, 60),
    "NearestMean": lambda t, s: continual.NearestMean(
        Replay(t, BalancedBuffer(60, select="herding"))
    ),
    "DER": lambda t, s: continual.DER(t, 60),
    "DERpp": lambda t, s: continual.DERpp(t, 60),
    "ERACE": lambda t, s: continual.ERACE(t, 60),
    "GEM": lambda t, s: continual.GEM(t, 50),
    "AGEM": lambda t, s: continual.AGEM(t, 60),
    "OGD": lambda t, s: continual.OGD(t, 5),
    "GDumb": lambda t, s: continual.GDumb(t, 60),
    "FROMP": lambda t, s: continual.FROMP(t, 4, 1e-3),
    "XdG": lambda t, s: continual.XdG(t),
    "PackNet": lambda t, s: continual.PackNet(t),
    "ContinualBackprop": lambda t, s: continual.ContinualBackprop(
        t, replacement_rate=0.1, maturity=2
    ),
    "ShrinkAndPerturb": lambda t, s: continual.ShrinkAndPerturb(t),
}
#: The names of those that there are.
NAMES = {kind.__name__ for kind in kinds_in(continual, continual.Strategy)}
