"""The leaderboard at a terminal: ratings with their intervals, and who won against whom."""

from __future__ import annotations

from gpt2rt.arena.page import span, wins
from gpt2rt.cli.terminal import print_table, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLOT = 41  # columns of the plot of intervals


def print_board(found: dict[str, Any]) -> None:
    """Print ratings with their intervals as a plot, the matrix of wins, and the notes."""
    rated = [row for row in found["rows"] if row["rating"] is not None]
    low = min((row["low"] for row in rated), default=0.0)
    high = max((row["high"] for row in rated), default=1.0)
    scale = f"{low:.0f}{f'{high:.0f}':>{PLOT - len(f'{low:.0f}')}}"
    rows = [("", "rating", "95% interval", scale, "rank", "rounds", "won", "lost", "tied", "bad")]
    for row in found["rows"]:
        counts = [str(row[name]) for name in ("rounds", "wins", "losses", "ties", "bad")]
        name = row["name"] + (" *" if row["provisional"] and row["rounds"] else "")
        if row["rating"] is None:
            rows.append((name, "", "", "", "", *counts))
            continue
        at = [round((PLOT - 1) * (row[key] - low) / max(high - low, 1e-9)) for key in ("low", "rating", "high")]
        plot = "".join("●" if i == at[1] else "─" if at[0] <= i <= at[2] else " " for i in range(PLOT))
        interval = f"{row['low']:.0f} to {row['high']:.0f}"
        rows.append((name, f"{row['rating']:.0f}", interval, plot, span(row["rank_low"], row["rank_high"]), *counts))
    print_table(rows, as_markdown=False)
    names = [row["name"] for row in found["rows"] if row["rounds"]]
    if names:
        won = wins(found)
        write("\nWins of the row against the column:\n")
        print_table(
            [("", *names), *((a, *(str(won.get((a, b), "·")) for b in names)) for a in names)], as_markdown=False
        )
    write("\n" + "".join(f"{note}\n" for note in found["notes"]))
