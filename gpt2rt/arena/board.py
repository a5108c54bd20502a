"""The board: ratings with intervals, rank intervals, and what to know before believing them.

Two kinds of statements are on it. Intervals of ratings and of ranks hold at one look, at a time that the votes did not
choose. A winner of a pair holds at all looks together (`pairs.py`): only these may be announced while people vote.

Intervals come from a Bayesian bootstrap (Rubin 1981) over voters, or over rounds where too few voters are known:
clusters get random weights, so that no resample loses a contestant. A resample can't show what never happened, such as
the first defeat of a contestant: a standard error is that of the resamples or that of the model, whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np

from gpt2rt.arena.pairs import ALPHA, is_decided, pair_interval
from gpt2rt.arena.ratings import (
    RIDGE,
    Bools,
    Convergence,
    Fit,
    Floats,
    Integers,
    Outcome,
    Rounds,
    Table,
    Ties,
    components,
    fit,
    newton,
)

ELO = 400 / math.log(10)  # Elo per unit of log odds
ANCHOR = 1000.0  # the mean rating of a component
LEVEL = 0.95  # of the intervals
Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
RESAMPLES = 500
BATCH = 50  # resamples at once, to stay within the CPU's caches
LEAST_VOTERS = 20  # effective number, below which voters say nothing about other voters
LEAST_ROUNDS = 30  # of a rating that is not provisional
WIDEST = 100.0  # half width of its interval, Elo
SAME = 1e-6  # log odds; strengths that differ by less are equal


class Flag(StrEnum):
    """What to know about a row."""

    FEW_ROUNDS = "few rounds"
    WIDE = "wide interval"
    ONE_SIDED = "won or lost every round"  # the ridge alone bounds the rating
    TIES = "the order depends on the rule for ties"
    STYLE = "the order depends on style"


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval, in Elo."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A contestant on the board.

    Attributes:
        component: the number of its component, 0 for the largest; ratings of different components are not comparable.
        rating: None if it met no other contestant.
        styled: the rating between answers of equal length; None if it has no rating, or lengths are unknown.
        rank: the best and the worst rank in its component, at one look; the intervals of all contestants hold together.
        settled_rank: the same at all looks, from the winners of pairs that are decided; wider.
        rounds, wins, losses, ties, both_bad: numbers of rounds, whatever they weigh.
    """

    name: str
    component: int
    rating: Estimate | None
    styled: Estimate | None
    rank: tuple[int, int]
    settled_rank: tuple[int, int]
    rounds: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    flags: tuple[Flag, ...]

    @property
    def is_provisional(self) -> bool:
        return Flag.FEW_ROUNDS in self.flags or Flag.WIDE in self.flags


@dataclass(frozen=True)
class Pair:
    """Two contestants that met.

    Attributes:
        wins, losses, ties, both_bad: of the contestant `name` against `other`.
        low, high: an interval of its win rate without ties, which holds at all looks and for all pairs together.
        winner: the better one, if that is decided.
    """

    name: str
    other: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    low: float
    high: float
    winner: str | None


@dataclass(frozen=True)
class Board:
    """What rounds say about contestants.

    Attributes:
        rows: by component, the best contestant first.
        pairs: those that met, in the order of names.
        wins: (n, n) rounds that the contestant of the row won against that of the column, in the order of names.
        slot: the advantage of the first slot; None without rounds.
        length, lines: the advantage of one standard deviation more of length or of lines; None if unknown.
        orders: {rule for ties: names in the order of rows}; with DROPPED, ties may be all that connects some.
        by_voter: whether the intervals speak of voters like these; otherwise of more votes of the same people.
        convergence: of the ratings' fit.
    """

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    wins: tuple[tuple[int, ...], ...]
    slot: Estimate | None
    length: Estimate | None
    lines: Estimate | None
    orders: dict[Ties, tuple[str, ...]]
    by_voter: bool
    convergence: Convergence

    @property
    def order_depends_on_ties(self) -> bool:
        return any(Flag.TIES in row.flags for row in self.rows)


def board(rounds: Rounds, names: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Board:
    """Rate contestants.

    Args:
        rounds: what was voted, with indices into `names`.
        names: all contestants, also those without rounds: a winner of a pair is decided at a level of 5% divided by
            the number of all pairs, which should not change while people vote.
        seed: of the resamples; the same rounds and seed give the same board.
    """
    n = len(names)
    groups = components(rounds, n)
    component = _numbers(groups, n)
    clusters, by_voter = _clusters(rounds)
    plain = _Spread(rounds, n, clusters, seed, resamples)
    styled = None if rounds.covariates() is None else _Spread(rounds, n, clusters, seed, resamples, style=True)
    ratings = plain.ratings(groups)
    styled_ratings = styled.ratings(groups) if styled else [None] * n
    ranks = plain.ranks(groups)
    counts = _count(rounds, n)  # (n, n, 4)
    pairs, better = _pairs(counts, names)
    settled_ranks = _ranks(better, groups)
    by_rule = {ties: plain.fit if ties == Ties.HALF else fit(rounds, n, ties=ties) for ties in Ties}
    untied = rounds.select(rounds.outcome < Outcome.TIE)
    comparable = dict.fromkeys(Ties, component) | {Ties.DROPPED: _numbers(components(untied, n), n)}
    tie_flags = np.any([_reversed(plain.fit, by_rule[ties], comparable[ties]) for ties in Ties], axis=0)
    style_flags = _reversed(plain.fit, styled.fit, component) if styled else np.zeros(n, bool)

    def order(found: Fit) -> list[int]:
        return sorted(range(n), key=lambda i: (component[i], -round(float(found.strengths[i]) / SAME), i))

    def row(i: int) -> Row:
        total, rating = int(counts[i].sum()), ratings[i]
        won, lost, tied, bad = map(int, counts[i].sum(axis=0))
        flags = {
            Flag.FEW_ROUNDS: total < LEAST_ROUNDS,
            Flag.WIDE: rating is not None and rating.high - rating.low > 2 * WIDEST,
            Flag.ONE_SIDED: total > 0 and total in (won, lost),
            Flag.TIES: tie_flags[i],
            Flag.STYLE: style_flags[i],
        }
        shown = tuple(flag for flag, is_set in flags.items() if is_set)
        return Row(
            name=names[i],
            component=int(component[i]),
            rating=rating,
            styled=styled_ratings[i],
            rank=ranks[i],
            settled_rank=settled_ranks[i],
            rounds=total,
            wins=won,
            losses=lost,
            ties=tied,
            both_bad=bad,
            flags=shown,
        )

    effects = styled.effects() if styled else [None] * 3
    return Board(
        rows=tuple(row(i) for i in order(plain.fit)),
        pairs=tuple(pairs),
        wins=tuple(tuple(map(int, won)) for won in counts[..., Outcome.A]),
        slot=plain.effects()[0],
        length=effects[1],
        lines=effects[2],
        orders={ties: tuple(names[i] for i in order(found)) for ties, found in by_rule.items()},
        by_voter=by_voter,
        convergence=plain.fit.convergence,
    )


def boards_by_category(
    rounds: Rounds, names: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Board]:
    """Return {category: the board of its rounds}; winners of pairs are decided as if there were one category."""
    return {
        str(one): board(rounds.select(rounds.category == one), names, seed, resamples)
        for one in np.unique(rounds.category)
    }


def _numbers(groups: list[list[int]], n: int) -> Integers:
    """Return (n,) the number of the group of each contestant."""
    numbers = np.zeros(n, np.int64)
    for number, group in enumerate(groups):
        numbers[group] = number
    return numbers


def _clusters(rounds: Rounds) -> tuple[Integers, bool]:
    """Return (R,) numbers of clusters, and whether these are voters."""
    alone = np.arange(len(rounds))
    labels, number = np.unique(rounds.cluster, return_inverse=True)
    number = np.where(rounds.cluster == "", len(labels) + alone, number.reshape(-1))
    number = np.unique(number, return_inverse=True)[1].reshape(-1)
    if len(np.unique(number)) == len(number) or _effective_number(number) < LEAST_VOTERS:
        return alone, False
    return number, True


def _effective_number(clusters: Integers) -> float:
    """Return Kish's effective number of clusters: near 1 if most rounds are in one of them."""
    sizes = np.bincount(clusters)
    return len(clusters) ** 2 / max(int(sizes @ sizes), 1)


class _Spread:
    """A fit and how it varies: estimates with intervals of linear functions of its parameters."""

    def __init__(
        self, rounds: Rounds, n: int, clusters: Integers, seed: int, resamples: int, style: bool = False
    ) -> None:
        self.fit = fit(rounds, n, style=style)
        self._n, self._has_rounds = n, len(rounds) > 0
        self._point = np.concatenate([self.fit.strengths, [self.fit.slot], self.fit.style])
        # the quantile of Student's t divided by the normal one, by the first term of their expansion
        self._inflation = 1 + (Z**2 + 1) / 4 / max(_effective_number(clusters) - 1, 1)
        self._draws = np.tile(self._point, (resamples, 1))  # (B, p)
        table = Table(rounds, n, covariates=rounds.covariates() if style else None)
        generator = np.random.default_rng(seed)
        for begin in range(0, resamples if self._has_rounds else 0, BATCH):
            draws = self._draws[begin : begin + BATCH]
            weight = generator.standard_exponential((len(draws), clusters.max() + 1))
            weight = (weight / weight.mean(axis=1, keepdims=True))[:, clusters] * rounds.weight
            if style:  # a step with the information of all rounds: refitting needs all rounds in each step
                draws += (weight - rounds.weight) @ self._scores(rounds, table) @ self.fit.covariance
            else:
                draws[:] = newton(table.design, table.counts(weight), RIDGE, draws)[0]

    def _scores(self, rounds: Rounds, table: Table) -> Floats:
        """Return (R, p) gradients of the rounds' log likelihoods; with covariates, cells are rounds."""
        result = np.array([1, -1, 0, 0])[rounds.outcome]  # P(win) - P(loss)
        scores: Floats = (result - np.tanh(table.design @ self._point / 2))[:, None] * table.design / 2
        return scores

    def _spread(self, contrasts: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (k,) values, (k,) standard errors and (B, k) errors of the resamples in them, of (k, p) contrasts."""
        value, errors = self._point @ contrasts.T, (self._draws - self._point) @ contrasts.T
        covariance = self.fit.covariance * self.fit.dispersion
        of_model = np.sqrt(np.maximum(np.sum(contrasts @ covariance * contrasts, axis=1), 0))
        of_resamples = errors.std(axis=0, ddof=1)
        studentized = errors / np.maximum(of_resamples, 1e-12)
        return value, np.maximum(of_resamples * self._inflation, of_model), studentized

    def _estimates(self, contrasts: Floats, anchor: float) -> list[Estimate]:
        value, error, _ = self._spread(contrasts)
        low, high = value - Z * error, value + Z * error
        return [Estimate(*map(float, anchor + ELO * np.array(one))) for one in zip(value, low, high, strict=True)]

    def ratings(self, groups: list[list[int]]) -> list[Estimate | None]:
        """Return the rating of each contestant, in a component that has others."""
        found: list[Estimate | None] = [None] * self._n
        for group in groups:
            if len(group) > 1:
                contrasts = np.zeros((len(group), len(self._point)))
                contrasts[:, group] = np.eye(len(group)) - 1 / len(group)
                for i, estimate in zip(group, self._estimates(contrasts, ANCHOR), strict=True):
                    found[i] = estimate
        return found

    def effects(self) -> list[Estimate | None]:
        """Return what follows the strengths: the slot's advantage, and with style that of length and of lines."""
        n_effects = len(self._point) - self._n
        contrasts = np.eye(len(self._point))[self._n :]
        return [*self._estimates(contrasts, 0.0)] if self._has_rounds else [None] * n_effects

    def ranks(self, groups: list[list[int]]) -> list[tuple[int, int]]:
        """Return the best and the worst rank of each contestant in its component.

        Two contestants are separated if their difference exceeds the critical value times its standard error. The
        critical value is the 95% quantile of the largest studentized difference among all pairs (single-step max-t,
        Westfall and Young 1993), so that all ranks hold together.
        """
        pairs = np.array([pair for group in groups for pair in combinations(group, 2)], int).reshape(-1, 2)
        contrasts, at = np.zeros((len(pairs), len(self._point))), np.arange(len(pairs))
        contrasts[at, pairs[:, 0]], contrasts[at, pairs[:, 1]] = 1, -1
        value, error, studentized = self._spread(contrasts)
        critical = max(Z, float(np.quantile(np.abs(studentized).max(axis=1, initial=0), LEVEL)))
        better = np.zeros((self._n, self._n), bool)  # of the row than that of the column
        for sign in (1, -1):
            one, other = pairs[sign * value > critical * error].T[::sign]
            better[one, other] = True
        return _ranks(better, groups)


def _ranks(better: Bools, groups: list[list[int]]) -> list[tuple[int, int]]:
    """Return the best and the worst rank of each contestant in its component, from (n, n) who is better than whom."""
    ranks = [(0, 0)] * len(better)
    for group in groups:
        for i in group:
            ranks[i] = 1 + int(better[:, i].sum()), len(group) - int(better[i].sum())
    return ranks


def _reversed(fit: Fit, other: Fit, component: Integers) -> Bools:
    """Return (n,) whether two fits order a contestant and some other one of its component in opposite ways."""
    one, two = (np.subtract.outer(each.strengths, each.strengths) for each in (fit, other))
    opposite: Bools = (np.minimum(np.abs(one), np.abs(two)) > SAME) & (one * two < 0)
    opposite &= np.equal.outer(component, component)
    found: Bools = np.any(opposite, axis=1)
    return found


def _count(rounds: Rounds, n: int) -> Integers:
    """Return (n, n, 4) numbers of rounds, by contestant, other contestant, and outcome for the former."""
    counts = np.zeros((n, n, 4), np.int64)
    mirrored = np.array([Outcome.B, Outcome.A, Outcome.TIE, Outcome.BOTH_BAD])
    np.add.at(counts, (rounds.first, rounds.second, rounds.outcome), 1)
    np.add.at(counts, (rounds.second, rounds.first, mirrored[rounds.outcome]), 1)
    return counts


def _pairs(counts: Integers, names: Sequence[str]) -> tuple[list[Pair], Bools]:
    """Return the pairs that met, with intervals that hold for all possible pairs together, and (n, n) who is better."""
    pairs, found, better = list(combinations(range(len(names)), 2)), [], np.zeros((len(names),) * 2, bool)
    for i, j in pairs:
        won, lost, tied, bad = map(int, counts[i, j])
        if won + lost + tied + bad:
            alpha = ALPHA / len(pairs)
            low, high = pair_interval(won, lost, alpha)
            best, worst = (i, j) if won > lost else (j, i)
            better[best, worst] = is_decided(won, lost, alpha)
            winner = names[best] if better[best, worst] else None
            found.append(Pair(names[i], names[j], won, lost, tied, bad, low, high, winner))
    return found, better
