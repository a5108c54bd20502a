"""A trace as lines of a terminal: pure functions from a trace, and what is selected in it, to text."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from gpt2rt.cli.next import as_the_stream_can, bar
from gpt2rt.cli.terminal import PLAIN
from gpt2rt.cli.tokenize import shown
from gpt2rt.cli.wrap import char_width, text_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.explain.steps import Step
    from gpt2rt.explain.trace import TextTrace

# Black on a background that is stronger the less likely a token was: (least probability, background of 256 colors).
SURPRISES = ((0.5, 0), (0.1, 229), (0.01, 222), (0.001, 215), (0.0, 210))
SHADES, PLAIN_SHADES = " ·░▒▓█", " .:+*#"
SHADE_STEPS = (0.02, 0.1, 0.25, 0.5, 0.75)
CELL = 11  # columns of a cell of the lens
BOLD, REVERSED = "\033[1m", "\033[7m"


@dataclass
class View:
    """A trace and what is selected in it.

    Attributes:
        position: of a token. choice: of the most likely tokens after it. layer, head: whose attention is shown.
        columns: of the terminal. rows: of the terminal, 0 for no limit. colors: whether it shows colors.
    """

    trace: TextTrace
    position: int
    choice: int
    layer: int
    head: int
    columns: int
    rows: int
    colors: bool


def name_of(trace: TextTrace, token: int) -> str:
    """Return a token in quotes, in characters that the stream has."""
    return as_the_stream_can(shown(trace.model.tokenizer.token_bytes(token)))


def surprise(logprob: float) -> float:
    """Return bits."""
    return -logprob / math.log(2) + 0.0


def fitted(text: str, columns: int) -> str:
    """Return a text of exactly this many columns: its end is cut off, or spaces are added."""
    while text_width(text) > columns:
        text = text[:-2] + "…" if len(text) > 1 and sys.stdout.encoding.lower().startswith("utf") else text[:-1]
    return text + " " * (columns - text_width(text))


def painted(view: View, text: str, probability: float | None, selected: bool = False) -> str:
    """Return a text with the background of a surprise."""
    if not view.colors:
        return text
    background = 0
    if probability is not None:
        background = next(color for least, color in SURPRISES if probability >= least)
    codes = (REVERSED if selected else "") + (f"\033[38;5;16;48;5;{background}m" if background else "")
    return f"{codes}{text}{PLAIN}" if codes else text


def token_lines(view: View) -> tuple[list[str], int]:
    """Return the text, tokens in colors or with their bits of surprise, and the index of the position's line."""
    trace = view.trace
    lines, width, selected = [""], 0, 0
    for i, piece in enumerate(trace.pieces):
        logprob = trace.logprobs[i]
        probability = None if math.isnan(logprob) else math.exp(logprob)
        text = as_the_stream_can(visible(piece))
        if not view.colors:
            bits = "-" if probability is None else f"{surprise(logprob):.1f}"
            text = f"{text}[{bits}]" if i != view.position else f"{text}<{bits}>"
        n = text_width(text)
        if width and width + n > view.columns - 1:
            lines.append("")
            width = 0
        if i == view.position:
            selected = len(lines) - 1
        lines[-1] += painted(view, text, probability, i == view.position)
        width += n
    return lines, selected


def visible(piece: bytes) -> str:
    """Return a token's text with all its characters visible, a space as it is."""
    text = piece.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def next_lines(view: View, n: int) -> list[str]:
    """Return bars of the n most likely tokens after the position."""
    trace, at = view.trace, view.position
    found = trace.top(at)[:n]
    texts = [name_of(trace, token) for token, _ in found]
    width = max(map(text_width, texts))
    follows = trace.ids[at + 1] if at + 1 < trace.n_tokens else None
    step = step_after(view)
    lines = [f"Next after {name_of(trace, trace.ids[at])} (token {at + 1} of {trace.n_tokens}):"]
    if step:
        lines[0] = f"{lines[0][:-1]}, by the model -> as sampled:"
    for i, ((token, logprob), text) in enumerate(zip(found, texts, strict=True)):
        share = math.exp(logprob - found[0][1])
        note = "  <- follows" if token == follows else ""
        room = max(1, min(30, view.columns - width - 26 - (11 if step else 0)))
        left = f" ->{dict(step.after).get(token, 0):8.2%}" if step else ""
        line = f" {text}{' ' * (width - text_width(text))} {math.exp(logprob):7.2%}{left}  {bar(share, room)}{note}"
        mark = i == view.choice
        lines.append((f"{BOLD}>{line}{PLAIN}" if view.colors else f">{line}") if mark else f" {line}")
    if follows is not None and follows not in [token for token, _ in found]:
        lines.append(f"  {name_of(trace, follows)} follows, {position_of(trace, at)}")
    return lines


def position_of(trace: TextTrace, at: int) -> str:
    """Return the rank and probability of the token that follows, as text."""
    return f"rank {trace.lens.ranks[-1, at] + 1:,}, {math.exp(trace.lens.logprobs[-1, at]):.2%}"


def step_after(view: View) -> Step | None:
    """Return the step that sampled the token after the position, or None."""
    return next((step for step in view.trace.steps if step.position == view.position + 1), None)


def step_line(view: View) -> str | None:
    """Return how the token after the position was sampled, or None."""
    step = step_after(view)
    if step is None:
        return None
    chosen = name_of(view.trace, step.token)
    if step.number is None:
        return f"Sampled {chosen}: there was no other candidate."
    return (
        f"Sampled {chosen} of {step.n_candidates} candidates: the random number {step.number:.4f}"
        f" fell between {step.low:.4f} and {step.high:.4f}."
    )


def lens_lines(view: View, most: int) -> list[str]:
    """Return the logit lens: the most likely token after each layer, for the last tokens up to the position.

    Args:
        most: rows; if there are more layers, some are left out.
    """
    trace = view.trace
    n_layer = trace.model.hyperparameters.n_layer
    n_columns = max(1, min((view.columns - 11) // CELL, trace.n_tokens))
    first = max(0, min(view.position - n_columns + 1, trace.n_tokens - n_columns))
    at = range(first, first + n_columns)
    rows = layers_shown(n_layer + 1, max(2, most))
    lines = ["After each layer, the model would say (logit lens):"]
    names = [painted(view, fitted(name_of(trace, trace.ids[i]), CELL - 1), None, i == view.position) for i in at]
    lines.append((" " * 11 + " ".join(names)).rstrip())
    for row in rows:
        cells = []
        for i in at:
            text = fitted(name_of(trace, int(trace.lens.top_ids[row, i, 0])), CELL - 1)
            cells.append(painted(view, text, math.exp(trace.lens.top_logprobs[row, i, 0])) + " ")
        label = "embedding" if row == 0 else f"layer {row - 1}"
        lines.append((f"{label:11}" + "".join(cells)).rstrip())
    return lines


def layers_shown(n: int, most: int) -> list[int]:
    """Return at most `most` of n rows, evenly spaced, with the first and the last."""
    return list(range(n)) if n <= most else sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})


def shade(weight: float) -> str:
    """Return a character for a weight."""
    try:
        SHADES.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN_SHADES[sum(weight >= step for step in SHADE_STEPS)]
    return SHADES[sum(weight >= step for step in SHADE_STEPS)]


def attention_lines(view: View, most: int) -> list[str]:
    """Return a head's attention as shades: a row for each of the last tokens up to the position."""
    trace = view.trace
    weights = trace.attention[view.layer, view.head]
    sink = trace.sinks[view.layer, view.head]
    about = "" if math.isnan(sink) else f"; {sink:.0%} of it goes to the first token"
    lines = [f"Attention of layer {view.layer}, head {view.head}{about}:"]
    label = 12
    n = max(1, min(view.columns - label - 3, view.position + 1))  # columns: the first token, then the last ones
    at = [0, *range(view.position + 2 - n, view.position + 1)] if n > 1 else [view.position]
    for row in range(max(0, view.position + 1 - most), view.position + 1):
        shades = "".join(shade(weights[row, i]) for i in at if i <= row)
        lines.append(f"{fitted(name_of(trace, trace.ids[row]), label - 1)} |{shades}|")
    top = sorted(range(view.position + 1), key=lambda i: -weights[view.position, i])[:4]
    names = [f"{name_of(trace, trace.ids[i])} {weights[view.position, i]:.0%}" for i in top]
    lines.append(cut(f"{name_of(trace, trace.ids[view.position])} looks at: {', '.join(names)}", view.columns))
    return lines


def cut(text: str, columns: int) -> str:
    """Return as much of a text as fits."""
    width = 0
    for i, char in enumerate(text):
        width += char_width(char)
        if width > columns:
            return text[:i]
    return text


def frame(view: View) -> list[str]:
    """Return all lines; with a limit of rows, as many as fit."""
    rows = view.rows or 10_000
    text, selected = token_lines(view)
    if view.rows:
        text = window(text, selected, max(1, rows // 6))
    n_next = 8 if rows > 34 else 5 if rows > 22 else 3
    head = [*text, "", *next_lines(view, n_next)]
    step = step_line(view)
    head += [cut(step, view.columns) if view.rows else step] if step else []
    left = rows - len(head) - 5
    n_attention = 16 if not view.rows else max(1, left // 3)
    n_lens = 10_000 if not view.rows else max(2, left - n_attention - 2)
    lines = [*head, "", *lens_lines(view, n_lens), "", *attention_lines(view, n_attention)]
    if view.rows:  # a line that is too long would move all others
        lines = [line if "\033" in line else cut(line, view.columns) for line in lines]
    return lines[: rows - 1]


def window(lines: list[str], selected: int, most: int) -> list[str]:
    """Return at most `most` of the lines, around the selected one."""
    begin = max(0, min(selected - most // 2, len(lines) - most))
    return lines[begin : begin + most]
