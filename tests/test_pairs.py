"""Pairs: which of two contestants is better, at any time one looks; and simulated boards that are looked at."""

import math
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.arena.pairs import is_decided, pair_interval
from gpt2rt.arena.ratings import Outcome
from gpt2rt.errors import UsageError

A, B, TIE, BOTH_BAD = Outcome


class TestPairs:
    def test_no_votes_say_nothing(self):
        assert pair_interval(0, 0) == (0.0, 1.0)
        assert not is_decided(0, 0)

    def test_the_interval_ends_where_the_mixture_likelihood_ratio_is_1_over_alpha(self):
        # a = 1: B(1 + s, 1 + f) = 1 / ((n + 1) * (n choose s))
        low, high = pair_interval(7, 3, alpha=0.1, a=1)
        for p in (low, high):
            assert 1 / (11 * math.comb(10, 7)) / (p**7 * (1 - p) ** 3) == pytest.approx(10)
        assert low < 0.7 < high

    def test_wins_alone_leave_only_a_lower_limit(self):
        # a = 1: 1 / (n + 1) / p ** n = 20
        assert pair_interval(9, 0, a=1) == pytest.approx(((1 / 200) ** (1 / 9), 1.0))

    @settings(deadline=None)
    @given(wins=st.integers(0, 500), losses=st.integers(0, 500), alpha=st.floats(1e-6, 0.5), a=st.floats(1, 10))
    def test_a_pair_is_decided_if_its_interval_excludes_one_half(self, wins, losses, alpha, a):
        low, high = pair_interval(wins, losses, alpha, a)
        assert 0 <= low <= wins / max(wins + losses, 1) <= high <= 1 or wins + losses == 0
        assert is_decided(wins, losses, alpha, a) == is_decided(losses, wins, alpha, a)
        if min(abs(low - 0.5), abs(high - 0.5)) > 1e-9:
            assert is_decided(wins, losses, alpha, a) == (low > 0.5 or high < 0.5)
        assert pair_interval(losses, wins, alpha, a) == pytest.approx((1 - high, 1 - low))

    def test_huge_numbers_of_votes_are_no_problem(self):
        low, high = pair_interval(10**9, 1, alpha=1e-30)
        assert 0.999 < low < high <= 1
        assert is_decided(10**9, 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((-1, 0), "wins and losses"), ((1, 1, 0.0), "alpha"), ((1, 1, 1.0), "alpha"), ((1, 1, 0.05, 0), "a: got 0")],
    )
    def test_arguments_out_of_range_are_refused(self, arguments, message):
        for function in (pair_interval, is_decided):
            with pytest.raises(UsageError, match=message):
                function(*arguments)


@pytest.mark.slow
class TestTruth:
    """What the intervals promise, on 1,000 simulated boards: `bench/arena_coverage.py` has more of them."""

    @pytest.fixture
    def bench(self, monkeypatch):
        monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1] / "bench")
        import arena_coverage

        return arena_coverage

    @pytest.mark.parametrize("number", [0, 2, 5, 6, 8, 10])
    def test_intervals_hold_the_truth_as_often_as_they_say(self, bench, number):
        scenario = bench.SCENARIOS[number]
        ratings, slots, right, _ = bench.coverage(scenario, 1000, 200, seed=2)
        assert ratings >= 0.93
        if not scenario.length:
            assert slots >= 0.93
            assert right >= 0.93

    @pytest.mark.parametrize(("n", "ties", "slot"), [(2, 0.0, 0.0), (2, 0.3, 0.5), (4, 0.0, 0.5), (8, 0.3, 0.5)])
    def test_a_false_winner_is_named_in_at_most_5_percent_of_runs(self, bench, n, ties, slot):
        anytime, z = bench.false_winners(n, 1000, 1000, ties, slot, 0.0, seed=2)
        assert anytime <= 0.05
        assert z > 0.3
