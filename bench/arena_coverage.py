"""How often the arena's statements about contestants are true, on simulated votes.

    python bench/arena_coverage.py --boards 1000 --runs 1000

The first table is about boards that are looked at once: the share of 95% intervals that hold the true value, and the
share of boards on which all rank intervals are right at once. The second is about looking after every vote: the share
of runs in which a winner is named that is not one, by `is_decided`, by a z test, and by rank intervals, which are not
made for it (`Row.settled_rank` is).

Strengths are normal, with a standard deviation of `spread`; a round is won or tied so that its expected result is that
of the Bradley-Terry model, to which a voter adds a normal opinion of each contestant. True ratings are those of
infinitely many such rounds.

A full run printed, in about ten minutes on two shared cores (the chance error of 95% is 0.7% for boards and slots, and
of the last column 4%):

| board | contestants | rounds | ratings | slot | all ranks | half width, Elo |
|---|---|---|---|---|---|---|
| few rounds | 4 | 20 | 97.4% | 96.9% | 100.0% | 208 |
| 30 rounds each | 8 | 120 | 96.1% | 94.9% | 100.0% | 125 |
| 30 rounds each, ties, slot | 8 | 120 | 96.2% | 95.4% | 99.9% | 103 |
| 100 rounds each | 8 | 400 | 95.4% | 95.5% | 100.0% | 65 |
| 100 rounds each, ties, slot | 8 | 400 | 95.1% | 95.1% | 99.8% | 55 |
| 100 rounds each, equals | 8 | 400 | 95.0% | 96.1% | 95.0% | 51 |
| 100 rounds each, far apart | 8 | 400 | 95.2% | 95.5% | 100.0% | 87 |
| 500 rounds each, ties, slot | 8 | 2000 | 95.2% | 95.5% | 100.0% | 24 |
| 25 voters with opinions | 6 | 500 | 94.2% | 95.5% | 99.7% | 49 |
| 100 voters with opinions | 6 | 1000 | 95.0% | 96.1% | 99.9% | 31 |
| longer answers win | 8 | 400 | 95.5% |  |  | 57 |

| wrong winner within 1,000 votes | `is_decided` | z test | ranks, 20 looks |
|---|---|---|---|
| two equals | 4.4% | 47.6% | 20.0% |
| two equals, 30% ties | 2.9% | 44.7% |  |
| two equals, the first slot wins 64% | 3.6% | 43.7% |  |
| two, one wins 52% | 0.5% | 10.2% |  |
| eight equals | 0.1% | 99.7% | 21.0% |
| eight equals, ties, slot | 0.2% | 99.5% |  |
"""

from functools import cache
from itertools import combinations
from typing import NamedTuple

import click
import numpy as np

from gpt2rt.arena.board import ANCHOR, ELO, RESAMPLES, Z, board
from gpt2rt.arena.pairs import ALPHA, is_decided
from gpt2rt.arena.ratings import Outcome, Rounds, fit

LOOKS = 20  # at a board of ranks, per run
FIRST_Z_TEST = 10  # votes


class Scenario(NamedTuple):
    """A board to simulate; spread, slot, opinion and length are in log odds."""

    name: str
    contestants: int
    rounds: int
    spread: float = 0.5
    ties: float = 0.0  # the share of rounds between equals
    slot: float = 0.0
    voters: int = 0
    opinion: float = 0.0
    length: float = 0.0  # per unit of (a - b) / (a + b)


SCENARIOS = [
    Scenario("few rounds", 4, 20),
    Scenario("30 rounds each", 8, 120),
    Scenario("30 rounds each, ties, slot", 8, 120, ties=0.3, slot=0.3),
    Scenario("100 rounds each", 8, 400),
    Scenario("100 rounds each, ties, slot", 8, 400, ties=0.3, slot=0.3),
    Scenario("100 rounds each, equals", 8, 400, spread=0.0, ties=0.3),
    Scenario("100 rounds each, far apart", 8, 400, spread=1.5),
    Scenario("500 rounds each, ties, slot", 8, 2000, ties=0.3, slot=0.3),
    Scenario("25 voters with opinions", 6, 500, ties=0.3, voters=25, opinion=0.5),
    Scenario("100 voters with opinions", 6, 1000, ties=0.3, voters=100, opinion=0.5),
    Scenario("longer answers win", 8, 400, ties=0.3, slot=0.3, length=1.0),
]


def expected(d, opinion):
    """Return the expected results of rounds with log odds d, for a random voter."""
    if not opinion:
        return 1 / (1 + np.exp(-d))
    at, weight = np.polynomial.hermite_e.hermegauss(40)
    return 1 / (1 + np.exp(-(d[..., None] + 2**0.5 * opinion * at))) @ weight / weight.sum()


def outcomes(e, ties, generator):
    """Return outcomes with the expected results e, of which a share 4 ties e (1 - e) are ties."""
    tie, u = 4 * ties * e * (1 - e), generator.random(len(e))
    return np.where(u < e - tie / 2, Outcome.A, np.where(u < e + tie / 2, Outcome.TIE, Outcome.B))


def pairings(n, rounds, generator):
    """Return random contestants of the first and of the second slot."""
    first = generator.integers(0, n, rounds)
    return first, (first + generator.integers(1, n, rounds)) % n


def true_strengths(strengths, scenario):
    """Return the strengths that infinitely many rounds would show, centered."""
    n = len(strengths)
    first, second = np.nonzero(~np.eye(n, dtype=bool))
    e = expected(strengths[first] - strengths[second] + scenario.slot, scenario.opinion)
    results = np.repeat([Outcome.A, Outcome.B], len(e))
    rounds = Rounds(np.tile(first, 2), np.tile(second, 2), results, weight=1e6 * np.concatenate([e, 1 - e]))
    found = fit(rounds, n)
    return found.strengths, found.slot


def simulate(scenario, generator):
    """Return random rounds, and the strengths of which they come."""
    n = scenario.contestants
    strengths = generator.normal(0, scenario.spread, n)
    first, second = pairings(n, scenario.rounds, generator)
    d = strengths[first] - strengths[second] + scenario.slot
    arrays = {}
    if scenario.voters:
        voter = generator.integers(0, scenario.voters, scenario.rounds)
        opinions = generator.normal(0, scenario.opinion, (scenario.voters, n))
        d = d + opinions[voter, first] - opinions[voter, second]
        arrays["cluster"] = [f"voter {i}" for i in voter]
    if scenario.length:
        verbosity = generator.normal(5, 0.3, n)  # log characters
        habits = np.stack([verbosity[first], verbosity[second]], axis=1)
        lengths = np.exp(habits + generator.normal(0, 0.5, habits.shape))
        arrays |= {"lengths": lengths, "lines": 1 + lengths // 60}
        d = d + scenario.length * (lengths[:, 0] - lengths[:, 1]) / lengths.sum(axis=1)
    rounds = Rounds(first, second, outcomes(expected(d, 0), scenario.ties, generator), **arrays)
    return rounds, strengths


def holds(estimate, true):
    return estimate.low <= true <= estimate.high


def ranks_hold(rows, strengths):
    """Return whether each rank interval holds all ranks that the contestant may be given; equals share theirs."""
    for row in rows:
        own = strengths[int(row.name)]
        best, worst = 1 + np.sum(strengths > own + 1e-9), np.sum(strengths >= own - 1e-9)
        if row.rank[0] > best or row.rank[1] < worst:
            return False
    return True


def coverage(scenario, boards, resamples, seed):
    """Return the shares of true intervals of ratings and of slots, that of right boards, and the mean half width."""
    generator = np.random.default_rng([seed, *scenario.name.encode()])
    ratings, slots, right, widths = [], [], [], []
    for number in range(boards):
        rounds, strengths = simulate(scenario, generator)
        names = [str(i) for i in range(scenario.contestants)]
        found = board(rounds, names, seed=number, resamples=resamples)
        true, slot = true_strengths(strengths, scenario)
        for row in found.rows:
            estimate = row.styled if scenario.length else row.rating
            if estimate is None or row.component:
                continue  # it met nobody, or few
            ratings.append(holds(estimate, ANCHOR + ELO * true[int(row.name)]))
            widths.append((estimate.high - estimate.low) / 2)
        slots.append(holds(found.slot, ELO * slot))
        right.append(ranks_hold(found.rows, np.round(true, 6)))
    return np.mean(ratings), np.mean(slots), np.mean(right), np.mean(widths)


@cache
def decided(wins, losses, alpha):
    return is_decided(wins, losses, alpha)


def false_winners(n, votes, runs, ties, slot, better, seed):
    """Return the shares of runs that name a wrong winner of some pair at some time, by `is_decided` and by a z test.

    Args:
        n: the number of contestants, all equal, but that the first one is stronger by `better` log odds.
    """
    generator = np.random.default_rng([seed, n, votes, int(100 * ties), int(100 * slot), int(100 * better)])
    strengths = np.zeros(n)
    strengths[0] = better
    alpha, z_limit = ALPHA / len(list(combinations(range(n), 2))), Z
    wrong = np.zeros(2)
    for _ in range(runs):
        first, second = pairings(n, votes, generator)
        e = expected(strengths[first] - strengths[second] + slot, 0)
        won = np.zeros((n, n), int)
        named = np.zeros(2, bool)
        for one, other, outcome in zip(first, second, outcomes(e, ties, generator), strict=True):
            if outcome == Outcome.TIE:
                continue
            winner, loser = (one, other) if outcome == Outcome.A else (other, one)
            won[winner, loser] += 1
            wins, losses = int(won[winner, loser]), int(won[loser, winner])
            if wins > losses and strengths[winner] <= strengths[loser]:
                named[0] |= decided(wins, losses, alpha)
                total = wins + losses
                named[1] |= total >= FIRST_Z_TEST and wins - losses > z_limit * total**0.5
        wrong += named
    return wrong / runs


def false_ranks(n, votes, runs, resamples, seed):
    """Return the share of runs on which, at one of LOOKS looks, equal contestants have ranks that exclude some."""
    generator = np.random.default_rng([seed, n, votes])
    names, wrong = [str(i) for i in range(n)], 0
    for _ in range(runs):
        first, second = pairings(n, votes, generator)
        rounds = Rounds(first, second, outcomes(np.full(votes, 0.5), 0.0, generator))
        looks = (np.arange(votes) < votes * look // LOOKS for look in range(1, LOOKS + 1))
        found = (board(rounds.select(seen), names, resamples=resamples) for seen in looks)
        wrong += any(not ranks_hold(one.rows, np.zeros(n)) for one in found)
    return wrong / runs


@click.command(
    help="Count how often the arena's statements are true, on simulated votes.", context_settings={"show_default": True}
)
@click.option("--boards", default=1000, metavar="N", help="Boards per row of the first table.")
@click.option("--runs", default=1000, metavar="N", help="Runs per row of the second table; a tenth for ranks.")
@click.option("--votes", default=1000, metavar="N", help="Votes per run.")
@click.option("--resamples", default=RESAMPLES, metavar="N", help="Resamples per board.")
@click.option("--seed", default=1, metavar="N", help="Seed of the simulation.")
def main(boards, runs, votes, resamples, seed):
    click.echo("| board | contestants | rounds | ratings | slot | all ranks | half width, Elo |")
    click.echo("|---|---|---|---|---|---|---|")
    for one in SCENARIOS:
        ratings, slots, right, width = coverage(one, boards, resamples, seed)
        slot = "" if one.length else f"{slots:.1%}"  # without style, the slot's true advantage is another one
        ranks = "" if one.length else f"{right:.1%}"
        row = f"| {one.name} | {one.contestants} | {one.rounds} | {ratings:.1%} | {slot} | {ranks} | {width:.0f} |"
        click.echo(row)
    click.echo(f"\n| wrong winner within {votes:,} votes | `is_decided` | z test | ranks, {LOOKS} looks |")
    click.echo("|---|---|---|---|")
    for name, n, ties, slot, better in [
        ("two equals", 2, 0.0, 0.0, 0.0),
        ("two equals, 30% ties", 2, 0.3, 0.0, 0.0),
        ("two equals, the first slot wins 64%", 2, 0.0, 0.575, 0.0),
        ("two, one wins 52%", 2, 0.0, 0.0, 0.08),
        ("eight equals", 8, 0.0, 0.0, 0.0),
        ("eight equals, ties, slot", 8, 0.3, 0.575, 0.0),
    ]:
        anytime, z = false_winners(n, votes, runs, ties, slot, better, seed)
        plain = not (ties or slot or better)
        ranks = f"{false_ranks(n, votes, max(1, runs // 10), resamples, seed):.1%}" if plain else ""
        click.echo(f"| {name} | {anytime:.1%} | {z:.1%} | {ranks} |")


if __name__ == "__main__":
    main()
