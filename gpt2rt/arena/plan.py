"""How many votes a difference needs: what to know before asking people for them.

Two contestants, of which the better one wins a share `win_rate` of the rounds that don't tie. Either one test is made
after a number of votes that was fixed before (an exact binomial test), or the winner is named as soon as
`pairs.is_decided` says so, with a look after every vote. Nothing is simulated: both are computed from the exact
distribution of the number of wins.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gpt2rt.arena.pairs import ALPHA, MIXTURE
from gpt2rt.errors import UsageError

LEAST_WIN_RATE = 0.51  # 7 Elo; below it, more votes are needed than people cast


def votes_needed(
    win_rate: float,
    power: float = 0.8,
    tie_rate: float = 0.0,
    *,
    anytime: bool = True,
    alpha: float = ALPHA,
    a: float = MIXTURE,
) -> int:
    """Return how many votes name the better of two contestants with a probability of at least `power`.

    Args:
        win_rate: its share of the rounds that don't tie, from 0.51 to less than 1.
        power: the probability that it is named by then; 0.5 gives the median number of votes. Less than
            1 - alpha, since as many as alpha may name the wrong one.
        tie_rate: the share of rounds that tie; these decide nothing.
        anytime: look after every vote, and stop at a decision. Otherwise look once, after the returned number.
        alpha: the largest probability to name a winner of two equals; on a board with K pairs, divide it by K.
        a: the parameter of the Beta mixture, as in `pairs.is_decided`; a test at a fixed number has none.

    Returns:
        The number of votes, ties included: the number without ties divided by 1 - tie_rate, rounded up.

    Raises:
        UsageError: an argument is out of range.
    """
    if not LEAST_WIN_RATE <= win_rate < 1:
        raise UsageError(f"win_rate: got {win_rate}, expected at least {LEAST_WIN_RATE} and less than 1")
    if not 0 <= tie_rate < 1:
        raise UsageError(f"tie_rate: got {tie_rate}, expected at least 0 and less than 1")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha: got {alpha}, expected more than 0 and less than 1")
    if not 0 < power < 1 - alpha:
        raise UsageError(f"power: got {power}, expected more than 0 and less than 1 - alpha, {1 - alpha:g}")
    n = _anytime(win_rate, power, alpha, a) if anytime else _fixed(win_rate, power, alpha)
    return math.ceil(n / (1 - tie_rate) - 1e-9)


def _anytime(win_rate: float, power: float, alpha: float, a: float) -> int:
    """Follow the distribution of the wins of undecided runs, vote by vote, until enough runs have decided rightly.

    The undecided numbers of wins are a short range around half of the votes: a run leaves it at the first number whose
    mixture likelihood ratio (`pairs.is_decided`) reaches 1 / alpha.
    """
    constant = math.lgamma(2 * a) - 2 * math.lgamma(a)
    undecided, least = np.ones(1), 0  # undecided[k]: the probability of least + k wins
    right, n = 0.0, 0
    log_gamma = _log_gamma(a, 1024)
    while right < power:
        n += 1
        if n >= len(log_gamma):
            log_gamma = _log_gamma(a, 2 * n)
        undecided = np.convolve(undecided, [1 - win_rate, win_rate])
        wins = np.arange(least, least + len(undecided))
        ratio = constant + log_gamma[wins] + log_gamma[n - wins] - math.lgamma(2 * a + n) + n * math.log(2)
        decided = ratio >= -math.log(alpha)
        right += float(undecided[decided & (2 * wins > n)].sum())
        kept = np.flatnonzero(~decided)
        undecided, least = undecided[kept[0] : kept[-1] + 1], int(wins[kept[0]])
    return n


def _log_gamma(a: float, n: int) -> NDArray[np.float64]:
    """Return lgamma(a + k) for k in 0..n-1."""
    return math.lgamma(a) + np.append(0.0, np.cumsum(np.log(a + np.arange(n - 1))))


def _fixed(win_rate: float, power: float, alpha: float) -> int:
    """Return the first number of votes whose test has the power.

    The search begins at 0.8 times the normal approximation, which is too low: an exact test errs less than alpha. The
    power of exact tests has a saw's teeth: a few of the next larger numbers may fall below it again.
    """
    quantile, deviation = NormalDist().inv_cdf, math.sqrt(win_rate * (1 - win_rate))
    about = ((quantile(1 - alpha / 2) / 2 + quantile(power) * deviation) / (win_rate - 0.5)) ** 2
    n = max(1, math.floor(0.8 * about) - 10)
    log_factorial = _log_gamma(1.0, 2 * n + 100)
    while True:
        if n >= len(log_factorial):
            log_factorial = _log_gamma(1.0, 2 * n)
        tail = np.cumsum(_upper(n, n // 2, 0.5, log_factorial)[::-1])[::-1]  # of n // 2 wins or more, and so on
        least = n // 2 + int(np.count_nonzero(tail > alpha / 2))  # the least significant number of wins
        if _upper(n, least, win_rate, log_factorial).sum() >= power:
            return n
        n += 1


def _upper(n: int, least: int, p: float, log_factorial: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of `least` wins of n, of one more, and so on up to ten standard deviations."""
    k = np.arange(least, min(n, math.ceil(n * p + 5 * math.sqrt(n))) + 1)
    ways = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    chances: NDArray[np.float64] = np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
    return chances
