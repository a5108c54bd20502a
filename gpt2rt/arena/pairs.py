"""Which of two contestants is better, at any time.

A page that shows the state after every vote tests after every vote: a test at a fixed number of votes would then name a
winner of two equals in 25% of runs by the 100th vote. What is here holds at all times together.
"""

from __future__ import annotations

import math

from gpt2rt.errors import UsageError

ALPHA = 0.05  # the largest probability to be wrong, ever
MIXTURE = 4.0  # the default of `a`


def pair_interval(wins: int, losses: int, alpha: float = ALPHA, a: float = MIXTURE) -> tuple[float, float]:
    """Return an interval of a win rate that holds at all times together, with a probability of 1 - alpha.

    Under a win rate of p, the likelihood ratio of a mixture Beta(a, a) of win rates to p is a martingale that starts at
    1 (Robbins 1970). By Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha; the interval
    is all p for which it has not. Votes may be counted after each vote, and stopped at will.

    It needs that each vote, given the earlier ones, is won with the same probability: slots by a coin, no duplicates.
    Of one person's votes it finds that person's taste.

    Args:
        wins, losses: rounds between two contestants; ties are left out.
        alpha: the probability to be wrong, ever; for K pairs, that of all divided by K.
        a: 2 to 5; a larger one decides sooner between close contestants, later between very different ones.
    """
    _check(wins, losses, alpha, a)
    best = wins / (wins + losses) if wins + losses else 0.5

    def border(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if 0 < middle < 1 and _log_ratio(wins, losses, middle, a) < -math.log(alpha):
                inside = middle
            else:
                outside = middle
        return outside

    return border(best, 0.0) if wins else 0.0, border(best, 1.0) if losses else 1.0


def is_decided(wins: int, losses: int, alpha: float = ALPHA, a: float = MIXTURE) -> bool:
    """Return whether `pair_interval` excludes one half: the contestant with more wins is the better one."""
    _check(wins, losses, alpha, a)
    return _log_ratio(wins, losses, 0.5, a) >= -math.log(alpha)


def _check(wins: int, losses: int, alpha: float, a: float) -> None:
    if min(wins, losses) < 0:
        raise UsageError(f"wins and losses: got {wins} and {losses}, expected at least 0")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha: got {alpha}, expected more than 0 and less than 1")
    if not a > 0:
        raise UsageError(f"a: got {a}, expected a positive number")


def _log_ratio(wins: int, losses: int, p: float, a: float) -> float:
    """Return log(B(a + wins, a + losses) / B(a, a) / (p ** wins * (1 - p) ** losses)), p strictly between 0 and 1."""
    mixture = math.lgamma(a + wins) + math.lgamma(a + losses) - math.lgamma(2 * a + wins + losses)
    constant = 2 * math.lgamma(a) - math.lgamma(2 * a)
    return mixture - constant - wins * math.log(p) - losses * math.log1p(-p)
