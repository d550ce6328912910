"""Quadratic penalties on parameters, which add up to one."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from thalweg._arrays import Array

#: Importance A, anchor a and strength s of the penalty s/2 sum A (theta - a)^2.
Penalty: TypeAlias = tuple[Array, Array, float]

#: The place of the penalty that `Trainer.set_penalty` sets; those of strategies count from 0.
OWN = -1


class Penalties:
    r"""Penalties by their places, and the one that they are together.

    .. math:: \sum_k \frac{s_k}{2} \sum_j A_{kj} (\theta_j - a_{kj})^2
              = \frac12 \sum_j A_j (\theta_j - a_j)^2 + c, \qquad
              A = \sum_k s_k A_k, \quad a = \frac1A \sum_k s_k A_k a_k

    Only the parameters marked by `counts` are pulled; None is all of them.
    """

    def __init__(
        self, terms: Mapping[int, Penalty] | None = None, counts: Array | None = None
    ) -> None:
        self.terms = dict(sorted((terms or {}).items()))  # so that sums have the same bits
        self.counts = counts
        counting = [self._counting(term) for term in self.terms.values()]
        #: The one that they are together, but for a constant, c.
        self.total: Penalty | None = counting[0] if counting else None
        self.constant = 0.0
        if len(counting) > 1:
            self.total, self.constant = _sum(counting)

    def but(self, place: int, term: Penalty | None) -> "Penalties":
        """Return the same with another penalty in a place, or with none."""
        others = {key: one for key, one in self.terms.items() if key != place}
        return Penalties(others if term is None else {**others, place: term}, self.counts)

    def value(self, place: int, theta: Array) -> float:
        """Compute the penalty in a place in double precision; 0 if there is none."""
        term = self.terms.get(place)
        return 0.0 if term is None else _value(self._counting(term), theta)

    def _counting(self, term: Penalty) -> Penalty:
        importance, anchor, strength = term
        return term if self.counts is None else (importance * self.counts, anchor, strength)


def _value(penalty: Penalty, theta: Array) -> float:
    importance, anchor, strength = penalty
    distance = theta.astype(np.float64) - anchor
    return strength / 2 * float(importance @ distance**2)


def _sum(terms: list[Penalty]) -> tuple[Penalty, float]:
    """Return one penalty that differs from the sum of some by a constant, and that constant."""
    dtype = terms[0][0].dtype
    parts = [(strength * a.astype(np.float64), anchor) for a, anchor, strength in terms]
    exact = np.sum([importance for importance, _ in parts], axis=0)
    pull = np.sum([importance * anchor for importance, anchor in parts], axis=0)
    # Importances may be negative: where they cancel out, what is left is a slope, which is written
    # as a distant anchor of a parameter that hardly matters.
    least = np.finfo(dtype).eps * np.sum([np.abs(importance) for importance, _ in parts], axis=0)
    total = np.where(np.abs(exact) < least, least, exact)
    anchor = pull / np.where(total == 0, 1, total)
    constant = sum(_value(term, anchor) for term in terms)
    constant += 0.5 * float((total - exact) @ anchor**2)
    return (total.astype(dtype), anchor.astype(dtype), 1.0), constant
