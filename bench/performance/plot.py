"""Draw the plots of docs/performance.md from its table of peers: python bench/performance/plot.py docs/performance.md

There are four: for a light and for a dark page, each for a wide column and for a phone's.
"""

import re
import sys
from html import escape
from pathlib import Path

PANELS = (  # column of the table, title, which way is better
    ("first token, ms", "First token, whole process (ms)", "lower is better"),
    ("prompt of 512", "Prompt of 512 (tokens/s)", "higher is better"),
    ("decode", "Decode (tokens/s)", "higher is better"),
    ("memory, MB", "Peak memory (MB)", "lower is better"),
)
COLORS = {  # text, remarks, our bars, the peers' bars
    "light": ("#1f2328", "#59636e", "#0b6bcb", "#b4bac2"),
    "dark": ("#e6edf3", "#a5adb6", "#58a6ff", "#646c76"),
}
LAYOUTS = {"": 2, "-narrow": 1}  # end of the file's name, panels side by side
FONT = 14  # px; the drawing is shown at 85% or more of its size, so that letters keep 12 px (9 pt)
WIDTH, GAP = 388, 16  # of a panel; between panels
LABELS, VALUES = 138, 50  # room for text on both sides of the bars
HEAD, ROW, BAR = 46, 23, 14
BROKEN = 3.0  # a bar this many times as long as the next one is drawn broken, so that the others keep their differences


def draw_page(page):
    """Draw the plots of a page beside it, named for it."""
    rows = read_table(page.read_text(encoding="utf-8"))
    for scheme, colors in COLORS.items():
        for suffix, n_columns in LAYOUTS.items():
            svg = draw(rows, colors, n_columns)
            page.with_name(f"{page.stem}-{scheme}{suffix}.svg").write_text(svg, encoding="utf-8")


def read_table(text):
    """Return [(label, {column: value})]: the rows of the table of peers with the first row's number of threads."""
    table = re.search(r"<!-- table: peers -->\n(.*?)<!-- end -->", text, re.DOTALL)
    if not table:
        raise ValueError("no table named peers")
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[1].strip().split("\n") if line
    ]
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    return [
        (row[""], {column: float(row[column].replace(",", "")) for column, *_ in PANELS if row[column]})
        for row in rows
        if row["threads"] == rows[0]["threads"] and "," not in row[""]
    ]


def draw(rows, colors, n_columns):
    """Return an SVG with a panel of bars for each figure."""
    text, remark, ours, peers = colors
    height = HEAD + ROW * len(rows)
    n_lines = -(-len(PANELS) // n_columns)
    size = (n_columns * WIDTH + (n_columns - 1) * GAP, n_lines * height + (n_lines - 1) * GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}"',
        f' font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif" font-size="{FONT}">',
        f"<style>text {{ fill: {text} }} .remark {{ fill: {remark} }} .title, .ours {{ font-weight: 600 }}"
        f" path {{ fill: {peers} }} path.ours {{ fill: {ours} }} .label {{ text-anchor: end }}</style>",
    ]
    for i, (column, title, better) in enumerate(PANELS):
        x, y = i % n_columns * (WIDTH + GAP), i // n_columns * (height + GAP)
        parts.append(f'<g transform="translate({x} {y})">')
        parts.append(f'<text class="title" y="16">{escape(title)}</text>')
        parts.append(f'<text class="remark" y="34">{escape(better)}</text>')
        parts += panel([(label, values[column]) for label, values in rows if column in values])
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def panel(rows):
    """Return the bars of one figure, with their labels and values."""
    longest, second = sorted((value for _, value in rows), reverse=True)[:2]
    broken = longest > BROKEN * second
    room = WIDTH - LABELS - VALUES
    parts = []
    for i, (label, value) in enumerate(rows):
        y = HEAD + i * ROW
        kind = "ours" if label.startswith("gpt2rt") else "peer"
        length = value / (1.5 * second if broken else longest) * room
        parts.append(f'<text class="label {kind}" x="{LABELS - 8}" y="{y + 12}">{escape(label)}</text>')
        if broken and value == longest:
            length, cut = room, 0.8 * room
            path = f"{bar(y, 0, cut, 3, 0)}{bar(y, cut + 8, room, 0, 3)}"
        else:
            path = bar(y, 0, max(length, 1), 0, 0)
        parts.append(f'<path class="{kind}" d="{path}"/>')
        parts.append(f'<text x="{LABELS + length + 6:.1f}" y="{y + 12}">{value:,.0f}</text>')
    return parts


def bar(y, start, end, right, left):
    """Return the path of a bar; its ends slant by `right` and `left` pixels where it is broken."""
    a, b = LABELS + start, LABELS + end
    return f"M{a + left:.1f} {y}L{b + right:.1f} {y}L{b - right:.1f} {y + BAR}L{a - left:.1f} {y + BAR}Z"


if __name__ == "__main__":
    draw_page(Path(sys.argv[1]))
