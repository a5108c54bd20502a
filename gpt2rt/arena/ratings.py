"""Strengths of contestants from the outcomes of rounds.

The model is that of Bradley and Terry (1952): the log odds that the contestant in the first slot wins a round are

    strength[first] - strength[second] + slot + covariates @ style

Strengths, slot and style maximize the log likelihood minus ridge * (sum of their squares), by Newton's method. The
ridge keeps them finite if a contestant wins every round, and gives the contestants of each component a mean strength of
0. A tie counts as half a win, or as one of the other rules of `Ties` says; "both bad" is a tie here.

Shapes: R rounds, n contestants, C cells (distinct rows of the design), p parameters, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt2rt.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

RIDGE = 0.1  # as if strengths were sampled from a normal distribution with a standard deviation of 390 Elo
TIELESS_ROUNDS = 8.0  # added to estimate the variance: a few ties in a row must not look like certainty


class Outcome(IntEnum):
    """How a round ended. A and B are the contestants shown in the first and in the second slot."""

    A = 0
    B = 1
    TIE = 2
    BOTH_BAD = 3


class Ties(StrEnum):
    """What a tie says about strengths.

    HALF: half a win for each. DROPPED: nothing. NEWMAN: an outcome with a parameter of its own, whose probability is
    highest between equals (Davidson 1970; Newman 2023, "Efficient computation of rankings from pairwise comparisons").
    """

    HALF = "half"
    DROPPED = "dropped"
    NEWMAN = "newman"


class Rounds:
    """Rated rounds: arrays with one entry per round.

    Attributes:
        first, second: (R,) the contestants' indices, in the order of the slots.
        outcome: (R,) values of `Outcome`.
        cluster: (R,) labels of the voters; a round with an empty label is a cluster of its own.
        category: (R,) labels.
        lengths, lines: (R, 2) characters and lines of the two answers, in the order of the slots; None if unknown.
        weight: (R,) how much each round counts in ratings; counts of rounds and `Pair` ignore it.

    Raises:
        UsageError: the arrays don't match, or an outcome, a contestant or a weight is invalid.
    """

    def __init__(
        self,
        first: ArrayLike,
        second: ArrayLike,
        outcome: ArrayLike,
        *,
        cluster: Sequence[str] | NDArray[np.str_] | None = None,
        category: Sequence[str] | NDArray[np.str_] | None = None,
        lengths: ArrayLike | None = None,
        lines: ArrayLike | None = None,
        weight: ArrayLike | None = None,
    ):
        self.first, self.second = _whole("first", first), _whole("second", second)
        self.outcome = _whole("outcome", outcome)
        n = len(self.first)
        self.cluster = np.asarray([""] * n if cluster is None else cluster, np.str_)
        self.category = np.asarray([""] * n if category is None else category, np.str_)
        self.lengths = None if lengths is None else np.asarray(lengths, np.float64).reshape(-1, 2)
        self.lines = None if lines is None else np.asarray(lines, np.float64).reshape(-1, 2)
        self.weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        for name, array in vars(self).items():
            if array is not None and len(array) != n:
                raise UsageError(f"{name}: got {len(array)} entries, expected one for each of {n} rounds")
        for value in np.setdiff1d(self.outcome, list(Outcome)):
            raise UsageError(f"outcome: got {value}, expected one of {', '.join(map(repr, Outcome))}")
        if np.any(self.first == self.second):
            raise UsageError("rounds: got a contestant against itself, expected two contestants")
        if not np.all((self.weight > 0) & np.isfinite(self.weight)):
            raise UsageError("weight: expected positive finite numbers")
        for name in ("lengths", "lines"):
            sizes = getattr(self, name)
            if sizes is not None and not np.all((sizes >= 0) & np.isfinite(sizes)):
                raise UsageError(f"{name}: expected two numbers of at least 0 per round")

    def __len__(self) -> int:
        return len(self.first)

    def select(self, which: Bools | Integers) -> Rounds:
        """Return some of the rounds, by a mask or by their numbers."""
        arrays: dict[str, Any] = {key: value if value is None else value[which] for key, value in vars(self).items()}
        return Rounds(**arrays)

    def covariates(self) -> Floats | None:
        """Return (R, 2) differences in length and in lines: (first - second) / (first + second), mean square 1."""
        if self.lengths is None or self.lines is None:
            return None
        sizes = np.stack([self.lengths, self.lines], axis=2)  # (R, slot, 2)
        found: Floats = (sizes[:, 0] - sizes[:, 1]) / np.maximum(sizes.sum(axis=1), 1)
        found /= np.maximum(np.sqrt((found**2).sum(axis=0) / max(len(found), 1)), 1e-9)
        return found


def _whole(name: str, values: ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"{name}: expected one whole number per round")
    return array.astype(np.int64)


@dataclass(frozen=True)
class Convergence:
    """How Newton's method ended: after how many steps, and with what largest component of the gradient."""

    iterations: int
    gradient: float
    tolerance: float

    @property
    def is_reached(self) -> bool:
        return self.gradient <= self.tolerance


@dataclass(frozen=True)
class Fit:
    """Maximum penalized likelihood estimates, in log odds.

    Attributes:
        strengths: (n,) with mean 0 in each component.
        slot: the advantage of the first slot; 0 if not fitted.
        style: (2,) the advantages of one standard deviation more of length and of lines; (0,) if not fitted.
        tie: the log of Newman's 2 * nu, None with other rules; exp(tie) / (2 + exp(tie)) of rounds between equals tie.
        covariance: (p, p) of strengths, slot and style, the inverse of the penalized information. Only that of
            differences within a component means something; the ridge alone determines the rest.
        dispersion: the variance of results divided by that of wins and losses alone, which `covariance` supposes.
        convergence: how the fit ended.
    """

    strengths: Floats
    slot: float
    style: Floats
    tie: float | None
    covariance: Floats
    dispersion: float
    convergence: Convergence


class Table:
    """Rounds summed over cells: the rounds with the same contestants in the same slots and the same covariates.

    Attributes:
        design: (C, p) the log odds of a cell are design @ parameters.
    """

    def __init__(self, rounds: Rounds, n: int, slot: bool = True, covariates: Floats | None = None):
        _check_contestants(rounds, n)
        pair = rounds.first * n + rounds.second if covariates is None else np.arange(len(rounds))
        _, some, cell = np.unique(pair, return_index=True, return_inverse=True)
        at = np.arange(len(some))
        self.design = np.zeros((len(some), n + slot))
        self.design[at, rounds.first[some]] += 1
        self.design[at, rounds.second[some]] -= 1
        self.design[:, n:] = 1
        if covariates is not None:
            self.design = np.hstack([self.design, covariates])
        entry = 3 * cell.reshape(-1) + np.minimum(rounds.outcome, Outcome.TIE)
        self._order = np.argsort(entry, kind="stable")
        self._entries, self._begins = np.unique(entry[self._order], return_index=True)

    def counts(self, weight: Floats, ties: Ties = Ties.HALF) -> Floats:
        """Return (B, C, 3) weights of rounds won, lost and tied by the first slot, from (B, R) weights of rounds."""
        flat = np.zeros((len(weight), 3 * len(self.design)))
        if self._order.size:
            flat[:, self._entries] = np.add.reduceat(weight[:, self._order], self._begins, axis=1)
        counts: Floats = flat.reshape(len(weight), -1, 3)
        if ties == Ties.HALF:
            counts[..., :2] += counts[..., 2:] / 2
        if ties != Ties.NEWMAN:
            counts[..., 2] = 0
        return counts


def newton(
    design: Floats, counts: Floats, ridge: float, start: Floats, ties: Ties = Ties.HALF
) -> tuple[Floats, Floats, Convergence]:
    """Maximize B penalized likelihoods at once.

    The probabilities of a win, a loss and a tie are proportional to exp(d / 2), exp(-d / 2) and exp(tie), where d are
    the log odds; without a tie parameter, the third is 0. Steps are damped as in Sun and Tran-Dinh 2019 (generalized
    self-concordant functions), which needs no line search and converges from every start.

    Args:
        design: (C, p). counts: (B, C, 3). start: (B, p), with NEWMAN (B, p + 1).

    Returns:
        (B, p) or (B, p + 1) parameters; the penalized information, a matrix for each; and how it ended.
    """
    has_tie, p = ties == Ties.NEWMAN, design.shape[1]
    parameters, total = start.copy(), counts.sum(axis=2)
    result, tied_rounds = counts[..., 0] - counts[..., 1], counts[..., 2].sum(axis=1)
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), p * p)
    tolerance = 1e-9 * (1 + float(total.sum(axis=1).max(initial=0)))
    for iteration in range(100):  # about 6 are used
        d = parameters[:, :p] @ design.T  # (B, C)
        tied = 1 / (1 + 2 * np.cosh(d / 2) * np.exp(-parameters[:, p:])) if has_tie else 0.0
        lead = (1 - tied) * np.tanh(d / 2)  # P(win) - P(loss)
        gradient = (result - total * lead) @ design / 2
        information = np.zeros((*parameters.shape, parameters.shape[1]))
        information[:, :p, :p] = ((total * (1 - tied - lead * lead)) @ squares / 4).reshape(-1, p, p)
        if has_tie:
            gradient = np.hstack([gradient, (tied_rounds - (total * tied).sum(axis=1))[:, None]])
            information[:, p, :p] = information[:, :p, p] = (-total * lead * tied / 2) @ design
            information[:, p, p] = (total * tied * (1 - tied)).sum(axis=1)
        gradient -= 2 * ridge * parameters
        information += 2 * ridge * np.eye(parameters.shape[1])
        ended = Convergence(iteration, float(np.abs(gradient).max(initial=0)), tolerance)
        if ended.is_reached:
            break
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        change = np.abs(step[:, :p] @ design.T).max(axis=1, initial=1e-12) + np.abs(step[:, p:]).sum(axis=1)
        parameters += step * (np.log1p(change) / change)[:, None]
    return parameters, information, ended


def fit(
    rounds: Rounds, n: int, *, ridge: float = RIDGE, ties: Ties = Ties.HALF, slot: bool = True, style: bool = False
) -> Fit:
    """Estimate the strengths of n contestants.

    Args:
        ridge: the weight of the sum of squares that is subtracted from the log likelihood; above 0.
        ties: what a tie says.
        slot: estimate the advantage of the first slot. style: estimate the advantages of longer answers.

    Raises:
        UsageError: the ridge is not positive, a contestant is not in 0..n-1, or lengths or lines are missing.
    """
    if not ridge > 0:
        raise UsageError(f"ridge: got {ridge}, expected a positive number")
    covariates = rounds.covariates() if style else None
    if style and covariates is None:
        raise UsageError("style: the rounds have no lengths and lines (fit without style)")
    table = Table(rounds, n, slot, covariates)
    p = table.design.shape[1]
    counts = table.counts(rounds.weight[None], ties)
    found, information, ended = newton(table.design, counts, ridge, np.zeros((1, p + (ties == Ties.NEWMAN))), ties)
    half_ties = float(rounds.weight[rounds.outcome >= Outcome.TIE].sum()) if ties == Ties.HALF else 0.0
    return Fit(
        strengths=found[0, :n],
        slot=float(found[0, n]) if slot else 0.0,
        style=found[0, n + slot : p],
        tie=float(found[0, p]) if ties == Ties.NEWMAN else None,
        covariance=np.linalg.inv(information[0])[:p, :p],
        dispersion=_dispersion(table.design @ found[0, :p], counts[0].sum(axis=1), half_ties),
        convergence=ended,
    )


def _dispersion(d: Floats, total: Floats, ties: float) -> float:
    """Return the variance of results divided by that of wins and losses alone: each tie at half takes 1/4 from it.

    Args:
        d: (C,) log odds. total: (C,) weights of rounds. ties: weight of the ties among them.
    """
    variance = total @ (1 - np.tanh(d / 2) ** 2) / 4  # the sum of p (1 - p)
    return float(1 - ties / 4 / (variance + TIELESS_ROUNDS / 4))


def _check_contestants(rounds: Rounds, n: int) -> None:
    met = np.concatenate([rounds.first, rounds.second])
    for value in met[(met < 0) | (met >= n)]:
        raise UsageError(f"rounds: got contestant {value}, expected 0 to {n - 1}")


def components(rounds: Rounds, n: int) -> list[list[int]]:
    """Return the groups of contestants that rounds connect, the largest first; strengths compare only within one."""
    _check_contestants(rounds, n)
    label = np.arange(n)
    while True:  # each contestant takes the lowest label of those it met
        before = label.copy()
        np.minimum.at(label, rounds.first, before[rounds.second])
        np.minimum.at(label, rounds.second, before[rounds.first])
        if np.array_equal(label, before):
            break
    groups = [np.flatnonzero(label == one).tolist() for one in np.unique(label)]
    return sorted(groups, key=lambda group: (-len(group), group))
