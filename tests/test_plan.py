"""How many votes a difference needs."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.arena.pairs import is_decided
from gpt2rt.arena.plan import votes_needed
from gpt2rt.errors import UsageError


@pytest.mark.parametrize(
    ("win_rate", "power", "expected"),
    [
        *[(0.52, 0.8, 4904), (0.52, 0.9, 6563), (0.55, 0.8, 783), (0.55, 0.9, 1047), (0.6, 0.8, 194), (0.6, 0.9, 259)],
        *[(0.7, 0.8, 47), (0.7, 0.9, 62), (0.8, 0.8, 20), (0.8, 0.9, 25)],
    ],
)
def test_a_fixed_number_is_a_little_more_than_the_normal_approximation(win_rate, power, expected):
    assert expected <= votes_needed(win_rate, power, anytime=False) <= 1.01 * expected + 5


@pytest.mark.parametrize(
    ("win_rate", "a", "simulated"),
    [
        *[(0.55, 1, (968, 1638, 2082)), (0.6, 1, (201, 361, 466)), (0.7, 1, (42, 78, 107)), (0.8, 1, (19, 31, 39))],
        *[(0.55, 5, (849, 1445, 1816)), (0.6, 5, (184, 360, 474))],
    ],
)
def test_looking_after_every_vote_needs_what_400_simulated_runs_needed(win_rate, a, simulated):
    found = [votes_needed(win_rate, power, a=a) for power in (0.5, 0.8, 0.9)]
    assert found == pytest.approx(simulated, rel=0.15)
    assert sum(found) == pytest.approx(sum(simulated), rel=0.12)


def exact_power(n, win_rate, alpha):
    """Return the power of the two-sided test that n votes are won with a probability of 1/2, in exact fractions."""
    p, alpha = Fraction(win_rate), Fraction(alpha)
    null, power = Fraction(0), Fraction(0)
    for wins in range(n, -1, -1):
        null += Fraction(math.comb(n, wins), 2**n)
        if null > alpha / 2:
            break
        power += math.comb(n, wins) * p**wins * (1 - p) ** (n - wins)
    return power


@pytest.mark.parametrize(("win_rate", "power"), [(0.7, 0.8), (0.8, 0.9), (0.95, 0.5), (0.99, 0.9)])
def test_a_fixed_number_is_the_first_that_has_the_power(win_rate, power):
    powers = [exact_power(n, win_rate, 0.05) for n in range(1, 70)]
    first = next(n for n, value in enumerate(powers, 1) if value >= power)
    assert votes_needed(win_rate, power, anytime=False) == first


@pytest.mark.parametrize(("win_rate", "power", "alpha"), [(0.7, 0.8, 0.05), (0.9, 0.9, 0.01), (0.99, 0.5, 0.05)])
def test_looking_after_every_vote_is_followed_exactly(win_rate, power, alpha):
    runs, right, n = {(0, 0): Fraction(1)}, Fraction(0), 0
    p = Fraction(win_rate)
    while right < power:
        n, later = n + 1, {}
        for (wins, losses), chance in runs.items():
            for state, share in (((wins + 1, losses), p), ((wins, losses + 1), 1 - p)):
                later[state] = later.get(state, 0) + chance * share
        runs = {state: chance for state, chance in later.items() if not is_decided(*state, alpha)}
        right += sum(chance for state, chance in later.items() if state not in runs and state[0] > state[1])
    assert votes_needed(win_rate, power, alpha=alpha) == n


@pytest.mark.parametrize(("win_rate", "expected"), [(0.52, 7006), (0.55, 1119), (0.6, 278), (0.7, 68), (0.8, 29)])
def test_ties_decide_nothing(win_rate, expected):
    assert votes_needed(win_rate, 0.8, 0.3, anytime=False) == pytest.approx(expected, rel=0.01, abs=7)
    for anytime in (False, True):
        without = votes_needed(win_rate, anytime=anytime)
        assert votes_needed(win_rate, tie_rate=0.5, anytime=anytime) == 2 * without


@settings(deadline=None)
@given(
    win_rate=st.floats(0.6, 0.99),
    power=st.floats(0.1, 0.9),
    alpha=st.floats(0.001, 0.09),
    anytime=st.sampled_from([0, 1]),
)
def test_a_smaller_difference_more_power_or_less_error_need_more_votes(win_rate, power, alpha, anytime):
    def votes(win_rate, power, alpha):
        return votes_needed(win_rate, power, anytime=bool(anytime), alpha=alpha)

    found = votes(win_rate, power, alpha)
    assert found <= votes(win_rate, min(power + 0.05, 0.905), alpha)
    assert found <= votes(win_rate, power, alpha / 2)
    if anytime:  # the power of a test at a fixed number has a saw's teeth
        assert found <= votes(win_rate - 0.02, power, alpha)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"win_rate": 0.5}, "win_rate: got 0.5, expected at least 0.51 and less than 1"),
        ({"win_rate": 1.0}, "win_rate"),
        ({"win_rate": math.nan}, "win_rate"),
        ({"power": 0.0}, "power"),
        ({"power": 0.95}, "power: got 0.95, expected more than 0 and less than 1 - alpha, 0.95"),
        ({"tie_rate": 1.0}, "tie_rate"),
        ({"tie_rate": -0.1}, "tie_rate"),
        ({"alpha": 0.0}, "alpha"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        votes_needed(**{"win_rate": 0.6} | arguments)
