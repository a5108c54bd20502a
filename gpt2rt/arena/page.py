"""The board as one HTML file, without scripts: to send to someone, or to put beside a paper."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 1rem 0 2rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
td.plot { width: 40%; } svg { display: block; width: 100%; height: 1.1rem; }
.provisional { color: var(--soft); } .wide { overflow-x: auto; }
"""


def html_board(standings: dict[str, Any], title: str) -> str:
    """Return a page with the rows and the pairs of `Standings.as_dict`."""
    rated = [row for row in standings["rows"] if row["rating"] is not None]
    low = min((row["low"] for row in rated), default=0.0)
    high = max((row["high"] for row in rated), default=1.0)

    def at(value: float) -> float:
        return round(2 + 396 * (value - low) / max(high - low, 1e-9), 1)

    rows = []
    for row in standings["rows"]:
        plot, rating, rank = "", "–", "–"
        if row["rating"] is not None:
            label = f"{row['low']:.0f} to {row['high']:.0f}"
            plot = (
                f'<svg viewBox="0 0 400 20" preserveAspectRatio="none" role="img" aria-label="{label}">'
                f'<path d="M{at(row["low"])} 10H{at(row["high"])}" stroke="currentColor" stroke-width="2"/>'
                f'<path d="M{at(row["rating"])} 3V17" stroke="currentColor" stroke-width="5"/></svg>'
            )
            rating, rank = f"{row['rating']:.0f}", span(row["rank_low"], row["rank_high"])
        kind = ' class="provisional"' if row["provisional"] else ""
        counts = "".join(f'<td class="n">{row[name]}</td>' for name in ("rounds", "wins", "losses", "ties", "bad"))
        rows.append(
            f'<tr{kind}><td>{escape(row["name"])}</td><td class="n">{rating}</td><td class="plot">{plot}</td>'
            f"<td>{rank}</td>{counts}</tr>"
        )
    head = "".join(f'<th class="n">{name}</th>' for name in ("Rounds", "Wins", "Losses", "Ties", "Both bad"))
    notes = "".join(f"<li>{escape(note)}</li>" for note in standings["notes"])
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n<ul>{notes}</ul>\n"
        f'<div class="wide"><table><tr><th>Contestant</th><th class="n">Rating</th><th>95% interval</th><th>Rank</th>'
        f"{head}</tr>\n" + "\n".join(rows) + f"\n</table></div>\n<h2>Who won against whom</h2>\n{matrix(standings)}\n"
    )


def matrix(standings: dict[str, Any]) -> str:
    """Return the table of wins of each row against each column."""
    names = [row["name"] for row in standings["rows"] if row["rounds"]]
    won = wins(standings)
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in names)
    rows = [
        f"<tr><th>{escape(a)}</th>" + "".join(f'<td class="n">{won.get((a, b), "")}</td>' for b in names) + "</tr>"
        for a in names
    ]
    return f'<div class="wide"><table><tr><th></th>{head}</tr>' + "".join(rows) + "</table></div>"


def wins(standings: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Return the wins of one contestant against another, of the pairs that met."""
    won = {}
    for pair in standings["pairs"]:
        won[pair["a"], pair["b"]], won[pair["b"], pair["a"]] = pair["wins"], pair["losses"]
    return won


def span(low: int, high: int) -> str:
    """Return a range of ranks."""
    return str(low) if low == high else f"{low}–{high}"
