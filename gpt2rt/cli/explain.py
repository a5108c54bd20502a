"""gpt2rt explain: show what a model saw in a text."""

from __future__ import annotations

import re
import sys
import time

import click

from gpt2rt.cli.files import read_text
from gpt2rt.cli.model_argument import model_and_text_arguments
from gpt2rt.cli.parameters import FILE
from gpt2rt.cli.sampling_options import given, model_options, sampling_option, special_option
from gpt2rt.cli.signals import undone_when_stopped
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.sampling import SAMPLING_OPTIONS, SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gpt2rt.explain.parts import Part
    from gpt2rt.explain.trace import TextTrace

PART = re.compile(r"L?(\d{1,6})(?:\.H?(\d{1,6}))?", re.IGNORECASE)
PATIENCE = 1.0  # seconds before progress is shown


def explained_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of sampling that a view explains."""
    defaults = SamplingParams().as_dict()
    for name in ("min_p", "top_p", "top_k", "temperature"):
        command = sampling_option(name, defaults[name])(command)
    return command


@click.command("explain", short_help="Show what a model saw in a text.")
@model_and_text_arguments("text", required=True)
@click.option(
    *("-n", "--max-tokens"),
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Sample at most N tokens after TEXT, and show how each was chosen.",
)
@click.option("--seed", type=int, metavar="N", help="Seed the random numbers with N.  [default: a random seed]")
@explained_sampling
@click.option(
    "--head", metavar="L.H", help="Show the attention of this layer and head.  [default: the one that counts most]"
)
@click.option(
    "--ablate",
    multiple=True,
    metavar="L[.H]",
    help="Leave out this head, or this layer; may be repeated.  [default: none]",
)
@click.option(
    "--html",
    type=FILE,
    metavar="FILE",
    help="Write a lesson: one page that needs no network.  [default: print, or read keys]",
)
@click.option("--print", "as_text", is_flag=True, help="Print once, also at a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@special_option
@model_options
def command(
    model: str,
    text: str,
    max_tokens: int,
    seed: int | None,
    head: str | None,
    ablate: tuple[str, ...],
    html: str | None,
    as_text: bool,
    as_json: bool,
    special: bool,
    threads: int | None,
    no_mmap: bool,
    **options: float | None,
) -> None:
    """Show what MODEL, the bundled model by default, saw in TEXT (- reads standard input).

    MODEL is a model file, or a name that gpt2rt models lists.

    The colors of the tokens, or the numbers after them, say how surprising each was; a bit is one halving of its
    probability. Then come the most likely next tokens; what the model would say if it ended after each layer (the logit
    lens); and what a head of attention looks at. Layers and heads are counted from 0.

    At a terminal, the left and right arrow keys step through the text, up and down choose a token, Enter continues with
    it instead, u undoes that, h and l show another head and layer, and q leaves.

    \b
    Examples:
      gpt2rt explain "The cat sat on the"
      gpt2rt explain 124M "When Mary and John went to the store, John gave a drink to"
      gpt2rt explain "Once upon a time" -n 20 --seed 7 --html lesson.html
      gpt2rt explain "The cat sat on the" --ablate 3.1 --json
    """
    from gpt2rt.explain.parts import checked_part
    from gpt2rt.model import open_model

    if text == "-":
        text = read_text("-").removesuffix("\n")
    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap)
    shape = opened.hyperparameters
    parts = [checked_part(part_named("--ablate", name), shape) for name in ablate]
    shown = None if head is None else checked_part(part_named("--head", head), shape)
    if shown is not None and shown[1] is None:
        raise UsageError(f"--head: got {head!r:.40}, expected a layer and a head, as in 3.1")
    if html is not None and (as_json or as_text):
        raise UsageError("--html: writes a page and prints nothing (leave out --json and --print)")

    def trace(ids: str | list[int], **changed: Any) -> TextTrace:
        keywords: dict[str, Any] = {"ablate": parts, "special": special, **changed}
        with Progress("tracing") as progress:
            return opened.trace(ids, progress=progress, **keywords)

    sampling = given({**dict.fromkeys(SAMPLING_OPTIONS), **options})
    found = trace(text, max_tokens=max_tokens, seed=seed, **sampling)
    if html is not None:
        write_lesson(found, SamplingParams(**sampling), html)
        return
    if as_json:
        from gpt2rt.cli.terminal import print_json
        from gpt2rt.explain.document import trace_document

        print_json(trace_document(found, shown), indent=None)
        return
    position = found.n_prompt - 1 if found.steps else found.n_tokens - 1
    show(found, shown or most_important_head(found, position), position, trace, as_text)


def write_lesson(found: TextTrace, sampling: SamplingParams, path: str) -> None:
    """Write the page."""
    from gpt2rt.cli.terminal import counted, printable
    from gpt2rt.explain.lesson import html_page, lesson_data
    from gpt2rt.modelfile.unfinished import check_output, replaced

    with Progress("branching") as progress:
        data = lesson_data(found, sampling, progress)
    page = html_page(data, f"What the model saw: {' '.join(found.text.split())[:60]}").encode()
    try:
        check_output(path, force=True)
        with undone_when_stopped(), replaced(path) as file:
            file.write(page)
    except (OSError, UsageError) as error:
        raise Gpt2rtError(f"{path}: can't be written: {getattr(error, 'strerror', None) or error}") from None
    click.echo(f"{printable(path)}: {counted(found.n_tokens, 'token')}, {len(page) / 1e6:.2f} MB", err=True)


def part_named(option: str, name: str) -> Part:
    """Return (layer, head or None) from 3.1, L3.H1, 3 or L3. Raises UsageError."""
    match = PART.fullmatch(name)
    if not match:
        raise UsageError(f"{option}: got {name!r:.40}, expected a layer and a head, as in 3.1")
    return int(match[1]), None if match[2] is None else int(match[2])


def most_important_head(trace: TextTrace, position: int) -> Part:
    """Return the head that speaks most for the most likely next token, against the second most likely one.

    What a head fetches from the first token, a sink, counts little.
    """
    import numpy as np

    top = trace.top(position)
    heads = trace.contributions(position, top[0][0], top[1][0] if len(top) > 1 else None).heads[..., 0]
    heads *= 1 - trace.attention[:, :, position, 0]
    layer, head = np.unravel_index(int(np.argmax(heads)), heads.shape)
    return int(layer), int(head)


def show(found: TextTrace, part: Part, position: int, trace: Callable[..., TextTrace], as_text: bool) -> None:
    """Print a trace, or let keys explore it."""
    import shutil

    from gpt2rt.cli.explain_frame import View, frame
    from gpt2rt.cli.explain_keys import Explorer, can_read_keys
    from gpt2rt.cli.terminal import has_colors

    layer, head = part
    view = View(found, position, -1, layer, head or 0, shutil.get_terminal_size().columns, 0, has_colors())
    if not as_text and can_read_keys():
        view.choice = 0
        Explorer(view, trace).run()
        return
    if found.steps:
        click.echo(f"(seed {found.seed})", err=True)
    sys.stdout.write("\n".join(frame(view)) + "\n")


class Progress:
    """Says on standard error how far a trace is, if it takes more than a second and someone sees it."""

    def __init__(self, what: str):
        self.what = what
        self.begin = time.monotonic()
        self.width = 0  # of what is shown

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - self.begin > PATIENCE:
            text = f"{self.what} [{'#' * (20 * done // total):20}] {done} of {total}"
            sys.stderr.write(f"\r{text:{self.width}}")  # no escape sequence: any terminal shows it
            self.width = len(text)
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width:
            sys.stderr.write(f"\r{' ' * self.width}\r")
            sys.stderr.flush()
