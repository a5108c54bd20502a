"""The arena's ratings: strengths, the board, and which of two is better at any time.

Where definitions agree, results are compared with those of arenakit, choix and evalica, from the extra `oracles`.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.arena.board import ELO, Flag, board, boards_by_category
from gpt2rt.arena.pairs import pair_interval
from gpt2rt.arena.ratings import Outcome, Rounds, Ties, components, fit
from gpt2rt.errors import UsageError

A, B, TIE, BOTH_BAD = Outcome
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]


def some_rounds(n=5, size=300, ties=0.3, seed=1, voters=0, **arrays):
    """Return random rounds of n contestants, the first ones stronger; voters have their own opinions."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, n, size)
    second = (first + generator.integers(1, n, size)) % n
    strengths = np.tile(-np.arange(n) / 4, (size, 1))
    if voters:
        voter = np.arange(size) % voters
        strengths += generator.normal(0, 1, (voters, n))[voter]
        arrays["cluster"] = [f"voter {i}" for i in voter]
    at = np.arange(size)
    won = generator.random(size) < 1 / (1 + np.exp(strengths[at, second] - strengths[at, first]))
    outcome = np.where(generator.random(size) < ties, TIE, np.where(won, A, B))
    return Rounds(first, second, outcome, **arrays)


def both_ways(games):
    """Return rounds of games (first, second, outcome), each also with the slots swapped."""
    mirrored = {A: B, B: A, TIE: TIE, BOTH_BAD: BOTH_BAD}
    return made([*games, *[(b, a, mirrored[outcome]) for a, b, outcome in games]])


def oracle(name):
    return pytest.importorskip(name, reason=f"{name} is not installed (pip install 'gpt2rt[oracles]')")


def by_name(found):
    return {row.name: row for row in found.rows}


class TestRounds:
    @pytest.mark.parametrize("outcome", [4, -1, 100])
    def test_an_unknown_outcome_is_refused(self, outcome):
        with pytest.raises(UsageError, match=f"outcome: got {outcome}, expected one of <Outcome.A: 0>"):
            Rounds([0, 0], [1, 1], [A, outcome])

    @pytest.mark.parametrize("outcome", [0.5, "tie", True, None])
    def test_an_outcome_that_is_no_number_is_refused(self, outcome):
        with pytest.raises(UsageError, match="outcome: expected one whole number per round"):
            Rounds([0], [1], [outcome])

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"second": [1]}, "second: got 1 entries, expected one for each of 2 rounds"),
            ({"second": [1, 0]}, "a contestant against itself"),
            ({"first": [[0], [0]]}, "first: expected one whole number"),
            ({"weight": [1, 0]}, "weight: expected positive finite"),
            ({"weight": [1, math.inf]}, "weight: expected positive finite"),
            ({"lengths": [[1, 2]]}, "lengths: got 1 entries"),
            ({"lines": [[1, 2], [-1, 2]]}, "lines: expected two numbers of at least 0"),
            ({"cluster": ["me"]}, "cluster: got 1 entries"),
            ({"category": ["a", "b", "c"]}, "category: got 3 entries"),
        ],
    )
    def test_arrays_that_do_not_match_are_refused(self, arrays, message):
        with pytest.raises(UsageError, match=message):
            Rounds(**{"first": [0, 0], "second": [1, 1], "outcome": [A, B]} | arrays)

    @pytest.mark.parametrize("contestant", [2, -1])
    def test_an_unknown_contestant_is_refused(self, contestant):
        rounds = Rounds([0, contestant], [1, 1], [A, A])
        for rate in (lambda: fit(rounds, 2), lambda: board(rounds, ["a", "b"])):
            with pytest.raises(UsageError, match=f"got contestant {contestant}, expected 0 to 1"):
                rate()

    def test_covariates_are_relative_differences_with_a_mean_square_of_1(self):
        rounds = Rounds([0, 0], [1, 1], [A, B], lengths=[[30, 10], [0, 10]], lines=[[0, 0], [1, 1]])
        scale = math.sqrt((0.5**2 + 1) / 2)
        assert rounds.covariates() == pytest.approx(np.array([[0.5, 0], [-1, 0]]) / [scale, 1])
        assert Rounds([0], [1], [A], lengths=[[1, 2]]).covariates() is None

    def test_rounds_are_selected_with_all_that_is_known_about_them(self):
        rounds = Rounds([0, 1], [1, 0], [A, TIE], cluster=["x", ""], category=["c", "d"], lengths=[[1, 2], [3, 4]])
        one = rounds.select(rounds.category == "d")
        assert (one.first.tolist(), one.outcome.tolist(), one.cluster.tolist()) == ([1], [TIE], [""])
        assert one.lengths.tolist() == [[3, 4]]
        assert one.lines is None


class TestFit:
    def test_two_contestants_have_the_log_odds_of_their_wins(self):
        found = fit(Rounds([0] * 4, [1] * 4, [A, A, A, B]), 2, ridge=1e-9, slot=False)
        assert found.strengths == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
        assert found.convergence.is_reached

    def test_ties_and_both_bad_are_half_a_win(self):
        found = fit(Rounds([0] * 4, [1] * 4, [A, A, TIE, BOTH_BAD]), 2, ridge=1e-9, slot=False)
        assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(3))

    def test_dropped_ties_say_nothing(self):
        found = fit(Rounds([0] * 5, [1] * 5, [A, A, TIE, BOTH_BAD, B]), 2, ridge=1e-9, slot=False, ties=Ties.DROPPED)
        assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(2))

    def test_newmans_ties_are_an_outcome_with_a_parameter(self):
        # exp(d / 2) : exp(-d / 2) : exp(tie) = 4 : 1 : 2
        rounds = Rounds([0] * 7, [1] * 7, [A, A, A, A, B, TIE, TIE])
        found = fit(rounds, 2, ridge=1e-9, slot=False, ties=Ties.NEWMAN)
        assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(4))
        assert found.tie == pytest.approx(0, abs=1e-6)

    def test_the_slot_is_an_advantage_of_the_first_contestant(self):
        rounds = Rounds([0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0], [A, A, A, B] * 2)
        found = fit(rounds, 2, ridge=1e-9)
        assert found.slot == pytest.approx(math.log(3))
        assert found.strengths == pytest.approx([0, 0])

    def test_style_explains_what_longer_answers_win(self):
        lengths = [[3, 1], [3, 1], [3, 1], [3, 1], [1, 3], [1, 3], [1, 3], [1, 3]]
        rounds = Rounds([0] * 8, [1] * 8, [A, A, A, B, B, B, B, A], lengths=lengths, lines=np.ones((8, 2)))
        found = fit(rounds, 2, ridge=1e-9, style=True, slot=False)
        assert found.style == pytest.approx([math.log(3), 0])
        assert found.strengths == pytest.approx([0, 0])

    def test_a_weight_of_two_is_two_rounds(self):
        one = fit(Rounds([0, 1, 2], [1, 2, 0], [A, B, TIE], weight=[2, 1, 3]), 3)
        two = fit(Rounds([0, 0, 1, 2, 2, 2], [1, 1, 2, 0, 0, 0], [A, A, B, TIE, TIE, TIE]), 3)
        assert one.strengths == pytest.approx(two.strengths)
        assert one.dispersion == pytest.approx(two.dispersion)

    @pytest.mark.parametrize("ties", Ties)
    def test_no_rounds_say_that_all_are_equal(self, ties):
        found = fit(Rounds([], [], []), 3, ties=ties)
        assert found.strengths.tolist() == [0, 0, 0]
        assert found.slot == 0

    @pytest.mark.parametrize("ties", Ties)
    @pytest.mark.parametrize("outcome", [A, B, TIE])
    def test_only_one_outcome_has_a_finite_fit(self, outcome, ties):
        found = fit(Rounds([0] * 10_000, [1] * 10_000, [outcome] * 10_000), 2, ties=ties)
        assert found.convergence.is_reached
        assert np.abs(found.strengths).max() < 10

    @pytest.mark.parametrize("ridge", [0, -1, math.nan])
    def test_a_ridge_that_is_not_positive_is_refused(self, ridge):
        with pytest.raises(UsageError, match="ridge: got"):
            fit(Rounds([0], [1], [A]), 2, ridge=ridge)

    def test_style_without_lengths_is_refused(self):
        with pytest.raises(UsageError, match="style: the rounds have no lengths"):
            fit(Rounds([0], [1], [A]), 2, style=True)

    def test_components_are_the_contestants_that_rounds_connect(self):
        assert components(Rounds([5, 1, 3], [4, 3, 2], [A, TIE, B]), 7) == [[1, 2, 3], [4, 5], [0], [6]]
        assert components(Rounds([], [], []), 0) == []

    def test_components_do_not_influence_each_other(self):
        apart = Rounds([0, 0, 1, 3, 4, 3], [1, 2, 2, 4, 3, 4], [A, B, TIE, A, A, A])
        both = fit(apart, 5, slot=False).strengths
        assert both[:3] == pytest.approx(fit(apart.select(apart.first < 3), 3, slot=False).strengths)
        assert both.reshape(-1)[:3].sum() == pytest.approx(0)
        assert both[3:].sum() == pytest.approx(0)


class TestOracles:
    @pytest.mark.parametrize("ridge", [0.001, 0.1, 3.0])
    def test_choix_finds_the_same_strengths(self, ridge):
        rounds = some_rounds(ties=0)
        won = rounds.outcome == A
        data = np.stack([np.where(won, rounds.first, rounds.second), np.where(won, rounds.second, rounds.first)], 1)
        expected = oracle("choix").opt_pairwise(5, data.tolist(), alpha=ridge, tol=1e-12)
        assert fit(rounds, 5, ridge=ridge, slot=False).strengths == pytest.approx(expected, abs=1e-7)

    @staticmethod
    def evalica_data(rounds):
        winner = oracle("evalica").Winner
        outcomes = {A: winner.X, B: winner.Y, TIE: winner.Draw, BOTH_BAD: winner.Draw}
        return rounds.first.tolist(), rounds.second.tolist(), [outcomes[one] for one in rounds.outcome]

    def test_evalica_finds_the_same_strengths(self):
        rounds = some_rounds()
        found = oracle("evalica").bradley_terry(*self.evalica_data(rounds), tolerance=1e-12, limit=10_000)
        expected = np.log(found.scores.sort_index().to_numpy())
        assert fit(rounds, 5, ridge=1e-7, slot=False).strengths == pytest.approx(expected - expected.mean(), abs=1e-5)

    def test_evalica_finds_newmans_strengths(self):
        rounds = some_rounds()
        found = oracle("evalica").newman(*self.evalica_data(rounds), tolerance=1e-12, limit=10_000)
        expected = np.log(found.scores.sort_index().to_numpy())
        ours = fit(rounds, 5, ridge=1e-7, slot=False, ties=Ties.NEWMAN)
        assert ours.strengths == pytest.approx(expected - expected.mean(), abs=1e-5)
        assert math.exp(ours.tie) == pytest.approx(2 * found.v, rel=1e-4)

    @staticmethod
    def arenakit_arena(rounds):
        oracle("arenakit")
        from arenakit.schema import Arena, Battle

        winners = {A: "model_a", B: "model_b", TIE: "tie", BOTH_BAD: "tie"}
        rows = zip(rounds.first, rounds.second, rounds.outcome, rounds.cluster, strict=True)
        battles = [
            Battle(model_a=NAMES[a], model_b=NAMES[b], winner=winners[outcome], voter_id=cluster or None)
            for a, b, outcome, cluster in rows
        ]
        return Arena(battles, models=NAMES[:5])

    @pytest.mark.parametrize(("ties", "rule"), [(Ties.HALF, "half"), (Ties.DROPPED, "drop")])
    def test_arenakit_finds_the_same_strengths_and_slot(self, ties, rule):
        rounds = some_rounds()
        counts = self.arenakit_arena(rounds).counts()
        from arenakit.bt import fit_bt

        expected, ours = (
            fit_bt(counts, ties=rule, order=True, prior=1e-7),
            fit(rounds, 5, ridge=1e-7, ties=ties),
        )
        assert ours.strengths == pytest.approx(expected.scores, abs=1e-5)
        assert ours.slot == pytest.approx(expected.order_log, abs=1e-5)

    def test_arenakit_finds_the_same_components(self):
        oracle("arenakit")
        from arenakit.bt import components as expected

        rounds = Rounds([5, 1, 3], [4, 3, 2], [A, TIE, B])
        met = np.zeros((7, 7))
        met[rounds.first, rounds.second] = met[rounds.second, rounds.first] = 1
        assert sorted(components(rounds, 7)) == sorted(expected(met))

    @pytest.mark.parametrize("voters", [0, 40])
    def test_arenakit_finds_the_same_standard_errors(self, voters):
        """Up to chance: its resamples draw clusters with replacement, ours weight them."""
        rounds = some_rounds(size=2000, voters=voters)
        arena = self.arenakit_arena(rounds)
        from arenakit.boot import bootstrap

        expected = ELO * bootstrap(arena, n_resamples=3000, cluster="voter" if voters else "battle").scores.std(axis=0)
        rows = by_name(board(rounds, NAMES[:5], resamples=3000))
        ours = [(rows[name].rating.high - rows[name].rating.low) / 2 / 1.96 for name in NAMES[:5]]
        assert ours == pytest.approx(expected, rel=0.1)

    def test_arenakit_separates_the_same_neighbors(self):
        rounds = some_rounds(size=2000)
        arena = self.arenakit_arena(rounds)
        from arenakit.boot import bootstrap, separation

        found = separation(bootstrap(arena, n_resamples=2000), NAMES[:5])
        clear = [one for one in found.pairs if abs(one["t"] - found.critical_simultaneous) > 0.6]
        rows = by_name(board(rounds, NAMES[:5], resamples=2000))
        assert len(clear) >= 2
        for one in clear:
            upper, lower = rows[one["upper"]], rows[one["lower"]]
            assert upper.rating.value > lower.rating.value
            assert one["resolved_simultaneous"] <= (upper.rank[1] < 5 and lower.rank[0] > 1)


def rounds_of(n, size=40):
    """A strategy for rounds of n contestants, as lists of (first, second, outcome)."""
    pair = st.permutations(range(n)).map(lambda order: order[:2])
    one = st.tuples(pair, st.sampled_from(Outcome)).map(lambda it: (*it[0], it[1]))
    return st.lists(one, min_size=1, max_size=size)


def made(rows):
    return Rounds(*(list(column) for column in zip(*rows, strict=True)))


class TestInvariances:
    @pytest.mark.parametrize("ties", Ties)
    @settings(deadline=None)
    @given(data=st.data(), rows=rounds_of(4))
    def test_the_order_of_rounds_does_not_matter(self, ties, data, rows):
        one, two = fit(made(rows), 4, ties=ties), fit(made(data.draw(st.permutations(rows))), 4, ties=ties)
        assert one.convergence.is_reached
        assert one.strengths == pytest.approx(two.strengths, abs=1e-6)
        assert one.slot == pytest.approx(two.slot, abs=1e-6)

    @pytest.mark.parametrize("ties", Ties)
    @settings(deadline=None)
    @given(rows=rounds_of(4))
    def test_swapped_slots_swap_only_the_advantage(self, ties, rows):
        swapped = [(b, a, {A: B, B: A}.get(outcome, outcome)) for a, b, outcome in rows]
        one, two = fit(made(rows), 4, ties=ties), fit(made(swapped), 4, ties=ties)
        assert one.strengths == pytest.approx(two.strengths, abs=1e-6)
        assert one.slot == pytest.approx(-two.slot, abs=1e-6)

    @pytest.mark.parametrize("ties", Ties)
    @settings(deadline=None)
    @given(rows=rounds_of(4), order=st.permutations(range(4)))
    def test_other_numbers_of_contestants_do_not_matter(self, ties, rows, order):
        one = fit(made(rows), 4, ties=ties)
        two = fit(made([(order[a], order[b], outcome) for a, b, outcome in rows]), 4, ties=ties)
        assert one.strengths == pytest.approx(two.strengths[order], abs=1e-6)

    @settings(deadline=None)
    @given(rows=rounds_of(4))
    def test_wins_and_losses_exchanged_reverse_the_ratings(self, rows):
        one = fit(made(rows), 4, slot=False)
        two = fit(made([(a, b, {A: B, B: A}.get(outcome, outcome)) for a, b, outcome in rows]), 4, slot=False)
        assert one.strengths == pytest.approx(-two.strengths, abs=1e-6)

    @settings(deadline=None)
    @given(rows=rounds_of(5, size=80))
    def test_a_board_counts_every_round_and_its_statements_agree(self, rows):
        found = board(made(rows), NAMES[:5], resamples=20)
        assert sum(row.rounds for row in found.rows) == 2 * len(rows)
        assert sum(row.wins for row in found.rows) == sum(row.losses for row in found.rows) == np.sum(found.wins)
        for row in found.rows:
            assert row.rounds == row.wins + row.losses + row.ties + row.both_bad
            assert 1 <= row.rank[0] <= row.rank[1] <= 5
            assert (row.rating is None) == (row.rounds == 0)
            if row.rating is not None:
                assert row.rating.low < row.rating.value < row.rating.high
        for component in {row.component for row in found.rows}:
            ratings = [row.rating.value for row in found.rows if row.component == component and row.rating]
            assert not ratings or np.mean(ratings) == pytest.approx(1000)
            assert ratings == sorted(ratings, reverse=True) or max(np.diff(ratings)) < 0.01


class TestBoard:
    def test_no_contestants(self):
        found = board(Rounds([], [], []), [])
        assert (found.rows, found.pairs, found.slot) == ((), (), None)

    def test_contestants_without_rounds_have_no_rating(self):
        found = board(Rounds([], [], []), NAMES[:2])
        for number, row in enumerate(found.rows):
            assert (row.rating, row.styled, row.component, row.rank, row.rounds) == (None, None, number, (1, 1), 0)
            assert row.is_provisional
        assert found.slot is None

    def test_the_same_rounds_and_seed_give_the_same_board(self):
        rounds = some_rounds(size=100, lengths=np.ones((100, 2)), lines=np.ones((100, 2)))
        assert board(rounds, NAMES, seed=3) == board(rounds, NAMES, seed=3) != board(rounds, NAMES, seed=4)

    def test_one_vote_looks_like_one_vote(self):
        row = board(Rounds([0], [1], [A]), NAMES[:2]).rows[0]
        assert (row.name, row.rank, row.settled_rank) == ("ant", (1, 2), (1, 2))
        assert row.rating.high - row.rating.low > 400
        assert row.flags == (Flag.FEW_ROUNDS, Flag.WIDE, Flag.ONE_SIDED)

    def test_a_contestant_that_wins_every_round_has_a_wide_interval_and_the_first_rank(self):
        rounds = both_ways([(0, 1, A), (0, 2, A), (1, 2, A), (1, 2, B)] * 10)
        row = board(rounds, NAMES[:3]).rows[0]
        assert (row.name, row.wins, row.rank, row.settled_rank) == ("ant", 40, (1, 1), (1, 1))
        assert Flag.ONE_SIDED in row.flags
        assert Flag.WIDE in row.flags
        assert Flag.FEW_ROUNDS not in row.flags
        assert row.rating.high - row.rating.low > 200

    def test_thirty_rounds_with_a_narrow_interval_are_not_provisional(self):
        rounds = some_rounds(n=3, size=600)
        assert not any(row.is_provisional for row in board(rounds, NAMES[:3]).rows)
        assert all(row.is_provisional for row in board(rounds.select(np.arange(30)), NAMES[:3]).rows)

    @pytest.mark.parametrize("outcome", [TIE, BOTH_BAD])
    def test_nothing_but_ties_separates_nobody(self, outcome):
        found = board(Rounds([0, 1, 2] * 30, [1, 2, 0] * 30, [outcome] * 90), NAMES[:3])
        for row in found.rows:
            assert row.rating.value == pytest.approx(1000)
            assert row.rating.low < 999
            assert row.rank == row.settled_rank == (1, 3)
            assert (row.ties, row.both_bad) == ((60, 0) if outcome == TIE else (0, 60))
        assert not found.order_depends_on_ties

    def test_contestants_that_never_met_share_no_scale(self):
        rounds = both_ways([(a, a + 1, outcome) for a in (0, 2) for outcome in (A, A, A, B)] * 10)
        found = board(rounds, NAMES[:5])
        assert [(row.name, row.component) for row in found.rows] == [
            *[("ant", 0), ("bee", 0), ("cat", 1), ("dog", 1), ("elk", 2)]
        ]
        assert found.rows[0].rating.value == pytest.approx(found.rows[2].rating.value)
        assert [row.rank for row in found.rows] == [(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]

    def test_a_rating_is_the_log_odds_in_elo(self):
        rounds = Rounds([0, 1] * 2000, [1, 0] * 2000, ([A, B] * 3 + [B, A]) * 500)
        ant, bee = board(rounds, NAMES[:2]).rows
        assert ant.rating.value - bee.rating.value == pytest.approx(400 * math.log10(3), abs=0.5)
        # the standard error of log odds is 1 / sqrt(n p (1 - p)), of each of two strengths half of that
        assert (ant.rating.high - ant.rating.low) / 2 == pytest.approx(
            1.96 * ELO / 2 / math.sqrt(4000 * 3 / 16), rel=0.1
        )

    def test_the_slots_advantage_has_an_interval(self):
        rounds = Rounds([0, 1] * 500, [1, 0] * 500, [A, A, A, A, A, A, B, B] * 125)
        slot = board(rounds, NAMES[:2]).slot
        assert slot.low < slot.value < slot.high
        assert slot.value == pytest.approx(400 * math.log10(3), abs=5)
        assert slot.low > 100

    def test_style_takes_back_what_longer_answers_won(self):
        generator = np.random.default_rng(1)
        first = generator.integers(0, 2, 2000)
        lengths = np.exp(generator.normal(np.stack([first == 0, first == 1], 1) * 0.5, 0.5)) * 100
        d = 3 * (lengths[:, 0] - lengths[:, 1]) / lengths.sum(axis=1)
        outcome = np.where(generator.random(2000) < 1 / (1 + np.exp(-d)), A, B)
        found = board(Rounds(first, 1 - first, outcome, lengths=lengths, lines=np.ones((2000, 2))), NAMES[:2])
        ant = by_name(found)["ant"]
        assert ant.rating.low > 1020
        assert ant.styled.low < 1000 < ant.styled.high
        assert found.length.low > 0
        assert found.lines.low < 0 < found.lines.high
        assert found.lines.value == pytest.approx(0)

    def test_an_order_that_style_reverses_is_flagged(self):
        lengths = [[3, 1], [3, 1], [3, 1], [3, 1], [1, 3], [1, 3]]
        rounds = Rounds([0] * 6, [1] * 6, [A, A, A, B, B, B][:6], lengths=lengths, lines=np.ones((6, 2)))
        rows = board(rounds.select(np.tile(np.arange(5), 20)), NAMES[:2]).rows
        assert rows[0].name == "ant"
        assert all(Flag.STYLE in row.flags for row in rows)

    def test_an_order_that_the_rule_for_ties_reverses_is_flagged(self):
        # against cat, ant wins more than it loses but ties often; bee wins most and never ties
        games = [(0, 2, A)] * 3 + [(0, 2, TIE)] * 97 + [(1, 2, A)] * 55 + [(1, 2, B)] * 45
        found = board(both_ways(games), NAMES[:3])
        assert found.orders[Ties.HALF] == ("bee", "ant", "cat")
        assert found.orders[Ties.DROPPED] == ("ant", "bee", "cat")
        assert found.order_depends_on_ties
        assert {row.name for row in found.rows if Flag.TIES in row.flags} == {"ant", "bee"}
        assert not board(made([(0, 1, A)] * 3 + [(0, 1, TIE)] * 3), NAMES[:2]).order_depends_on_ties

    def test_a_pair_that_only_ties_connect_is_not_compared_without_them(self):
        found = board(made([(0, 1, A)] * 9 + [(1, 2, TIE)] * 9 + [(2, 3, A)] * 2), NAMES[:4])
        assert not found.order_depends_on_ties

    def test_wins_are_counted_by_row_and_column(self):
        found = board(made([(0, 1, A), (1, 0, A), (1, 0, B), (2, 0, TIE), (1, 2, BOTH_BAD)]), NAMES[:3])
        assert found.wins == ((0, 2, 0), (1, 0, 0), (0, 0, 0))
        ant = by_name(found)["ant"]
        assert (ant.rounds, ant.wins, ant.losses, ant.ties, ant.both_bad) == (4, 2, 1, 1, 0)
        assert [(pair.name, pair.other, pair.wins, pair.losses, pair.ties, pair.both_bad) for pair in found.pairs] == [
            ("ant", "bee", 2, 1, 0, 0),
            ("ant", "cat", 0, 0, 1, 0),
            ("bee", "cat", 0, 0, 0, 1),
        ]

    def test_winners_of_pairs_hold_for_all_pairs_together(self):
        rounds = made([(0, 1, A)] * 11)
        [pair] = board(rounds, NAMES[:2]).pairs
        assert (pair.winner, pair.low, pair.high) == ("ant", *pair_interval(11, 0, 0.05))
        [pair] = board(rounds, NAMES[:6]).pairs
        assert (pair.winner, pair.low, pair.high) == (None, *pair_interval(11, 0, 0.05 / 15))
        [pair] = board(made([(0, 1, B)] * 11), NAMES[:2]).pairs
        assert pair.winner == "bee"

    def test_voters_who_agree_with_themselves_count_less(self):
        opinion = np.random.default_rng(1).integers(0, 2, 40)
        first = np.arange(800) % 2
        arrays = first, 1 - first, np.repeat(opinion, 20) ^ first
        alone = board(Rounds(*arrays), NAMES[:2])
        voters = board(Rounds(*arrays, cluster=[f"voter {i // 20}" for i in range(800)]), NAMES[:2])
        assert (alone.by_voter, voters.by_voter) == (False, True)
        narrow, wide = (one.rows[0].rating.high - one.rows[0].rating.low for one in (alone, voters))
        assert wide > 2 * narrow

    @pytest.mark.parametrize("votes", [[400], [40] * 10, [400] + [1] * 30])
    def test_too_few_voters_are_not_resampled(self, votes):
        cluster = [f"voter {i}" for i, n in enumerate(votes) for _ in range(n)]
        found = board(some_rounds(size=len(cluster), cluster=cluster), NAMES[:5])
        assert not found.by_voter

    def test_categories_have_their_own_boards(self):
        rounds = Rounds([0, 0, 1], [1, 1, 2], [A, A, B], category=["code", "chat", "chat"])
        boards = boards_by_category(rounds, NAMES[:3])
        assert {name: sum(row.rounds for row in found.rows) // 2 for name, found in boards.items()} == {
            "chat": 2,
            "code": 1,
        }
        assert boards["code"] == board(rounds.select(np.array([0])), NAMES[:3])
