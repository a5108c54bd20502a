"""Standings: the board of a file of votes, and what it means, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2rt.arena import ratings
from gpt2rt.arena.board import ANCHOR, LEAST_ROUNDS, Board, Flag, board
from gpt2rt.arena.contestants import Contestant
from gpt2rt.arena.votes import Outcome, Vote, Votes

OUTCOMES = {
    Outcome.A: ratings.Outcome.A,
    Outcome.B: ratings.Outcome.B,
    Outcome.TIE: ratings.Outcome.TIE,
    Outcome.BAD: ratings.Outcome.BOTH_BAD,
}
PEOPLE = ("person", "import")
JUDGES = ("judge",)


class Standings:
    """The board of the votes of people, or of judges, of a category or of all.

    Attributes:
        contestants: those on the board: all who play, and all who have played.
        board: the `Board`, over their names in this order. n_identical: rounds that are not rated, since both answers
            were the same. n_void: rounds in which a side did not answer.
    """

    def __init__(self, votes: Votes, *, origins: tuple[str, ...] = PEOPLE, category: str | None = None):
        chosen = [vote for vote in votes.votes(origins) if category is None or vote.category == category]
        rated = [vote for vote in chosen if not vote.identical]
        seen = {id_ for vote in chosen for id_ in (vote.first, vote.second)}
        self.contestants = [
            one for one in votes.contestants() if one.id in seen or (not one.retired and one.kind != "imported")
        ]
        self.n_identical = len(chosen) - len(rated)
        self.n_void = votes.n_voids()
        self.board: Board = board(_rounds(rated, self.contestants), [one.name for one in self.contestants])

    def notes(self) -> list[str]:
        """Return what to know about the numbers, in sentences."""
        found, shown = [], self.board
        decided = [pair for pair in shown.pairs if pair.winner is not None]
        if not shown.pairs:
            found.append("Nobody has voted yet.")
        elif not decided:
            found.append("No pair is decided yet: what looks like a difference may be chance.")
        for pair in decided:
            loser = pair.other if pair.winner == pair.name else pair.name
            found.append(f"{pair.winner} is better than {loser}: decided, however often you look.")
        n_groups = len({row.component for row in shown.rows if row.rounds})
        if n_groups > 1:
            found.append(f"The contestants form {n_groups} groups that never met: ratings compare within a group only.")
        if any(row.is_provisional for row in shown.rows if row.rounds):
            found.append(f"Ratings of fewer than {LEAST_ROUNDS} rounds, or with wide intervals, are provisional.")
        if shown.order_depends_on_ties:
            found.append("The order depends on what a tie means.")
        if any(Flag.STYLE in row.flags for row in shown.rows):
            found.append("The order depends on style: longer answers may have won for their length.")
        if shown.slot is not None and (shown.slot.low > 0 or shown.slot.high < 0):
            found.append("The first or the second place on the page has an advantage.")
        if self.n_identical:
            found.append(f"In {self.n_identical} rounds both answers were the same; they are not rated.")
        if self.n_void:
            found.append(f"{self.n_void} rounds do not count, since a side did not answer.")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the board for JSON; ratings are Elo around 1000, None for those that met nobody."""
        by_name = {one.name: one for one in self.contestants}
        names = {one.id: one.name for one in self.contestants}
        rows = []
        for row in self.board.rows:
            one, rating, styled = by_name[row.name], row.rating, row.styled
            rows.append(
                {
                    "name": row.name,
                    "rating": rating and rating.value,
                    "low": rating and rating.low,
                    "high": rating and rating.high,
                    "style_controlled": styled and styled.value,
                    # The ranges that hold however often people look; those of a single look are narrower.
                    "rank_low": row.settled_rank[0],
                    "rank_high": row.settled_rank[1],
                    "rounds": row.rounds,
                    "wins": row.wins,
                    "losses": row.losses,
                    "ties": row.ties,
                    "bad": row.both_bad,
                    "provisional": row.is_provisional,
                    "group": row.component,
                    "flags": [flag.value for flag in row.flags],
                    "parent": names.get(one.parent or ""),
                    "retired": one.retired,
                }
            )
        pairs = [
            {
                "a": pair.name,
                "b": pair.other,
                "wins": pair.wins,
                "losses": pair.losses,
                "ties": pair.ties,
                "bad": pair.both_bad,
                "low": pair.low,
                "high": pair.high,
                "decided": pair.winner is not None,
            }
            for pair in self.board.pairs
        ]
        return {"rows": rows, "pairs": pairs, "notes": self.notes(), "anchor": ANCHOR}


def _rounds(votes: Sequence[Vote], contestants: Sequence[Contestant]) -> ratings.Rounds:
    """Return votes as arrays."""
    at = {one.id: i for i, one in enumerate(contestants)}

    def sizes(of: Any) -> list[list[int]]:
        return [[sum(map(of, answers)) for answers in (vote.first_answers, vote.second_answers)] for vote in votes]

    return ratings.Rounds(
        np.array([at[vote.first] for vote in votes], np.int64),
        np.array([at[vote.second] for vote in votes], np.int64),
        np.array([OUTCOMES[vote.outcome] for vote in votes], np.int64),
        cluster=[vote.voter for vote in votes],
        category=[vote.category or "" for vote in votes],
        lengths=sizes(len),
        lines=sizes(lambda text: text.count("\n") + 1),
    )
