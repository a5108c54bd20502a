"""gpt2rt arena: blind battles in a terminal, and what became of them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable

import click

from gpt2rt.cli import complain
from gpt2rt.cli.files import read_line as next_line
from gpt2rt.cli.model_argument import MODEL, model_path, yes_option
from gpt2rt.cli.parameters import FILE
from gpt2rt.cli.sampling_options import threads_option
from gpt2rt.cli.terminal import counted, print_json, print_table, write
from gpt2rt.errors import UsageError
from gpt2rt.lines import lines_of
from gpt2rt.model_folder import model_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.arena.contestants import Contestant
    from gpt2rt.arena.votes import Votes

COMMANDS = ("battle", "chat", "list", "split", "retire", "leaderboard", "plan", "import", "export")
VOTES = "arena.sqlite"
Command = Callable[..., None]


def default_path() -> str:
    """Return where votes are kept unless --db says otherwise: beside the model folder."""
    return os.path.join(os.path.dirname(model_folder().rstrip(os.sep)), VOTES)


def db_option(command: Command) -> Command:
    """Add --db."""
    return click.option(
        "--db",
        type=FILE,
        metavar="FILE",
        help=f"Keep contestants and votes in FILE.  [default: {VOTES} next to the model folder]",
    )(command)


def opened_votes(db: str | None) -> Votes:
    """Open the file of votes, with the built-in contestants in it."""
    from gpt2rt.arena.contestants import builtin_contestants
    from gpt2rt.arena.votes import Votes

    votes = Votes(db or default_path())
    for contestant in builtin_contestants().values():
        votes.add(contestant)
    return votes


def playing(votes: Votes) -> list[Contestant]:
    """Return the contestants who play; complain about those who would, if their file were still the same."""
    from gpt2rt.arena.contestants import missing_file

    found: list[Contestant] = []
    digests: dict[str, str] = {}
    for one in votes.contestants():
        if one.retired or one.kind == "imported":
            continue
        problem = missing_file(one, digests)
        if problem:
            complain(f"{one.name} does not play: {problem} (gpt2rt arena retire {shlex.quote(one.name)})")
        else:
            found.append(one)
    return found


class ArenaGroup(click.Group):
    """A group whose first command is meant where none is named: `gpt2rt arena a.bin b.bin` is a battle."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            args = ["battle", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["battle", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)


@click.group(
    "arena",
    cls=ArenaGroup,
    short_help="Compare models blind: two answers, a vote, then the names.",
    subcommand_metavar="[COMMAND] [ARGS]...",
)
def command() -> None:
    """Compare variants of models blind: two answers to what you say, a vote, and only then the names.

    Without a COMMAND, a battle begins, between the contestants built in (the bundled model, greedy decoding, ELIZA and
    an LSTM) and those that you added.

    \b
    Examples:
      gpt2rt arena
      gpt2rt arena 124M-int8.bin 124M-int4.bin
      gpt2rt arena --contestants variants.toml
      gpt2rt arena chat eliza
      gpt2rt arena leaderboard
    """


@command.command("battle", short_help="Play battles in the terminal; this is what arena does by itself.")
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="Sample with the preset NAME: chat, greedy, cool, warm or pure; may be repeated.  [default: chat]",
)
@click.option("--contestants", type=FILE, metavar="FILE", help="Add the contestants of a TOML file.  [default: none]")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Let only the contestant NAME play; repeat it.  [default: all]"
)
@click.option("--category", metavar="NAME", help="Note the category NAME for each round.  [default: the suggestion's]")
@click.option("--voter", default="", metavar="LABEL", help="Note LABEL as the voter.  [default: none]")
@click.option("--seed", type=int, metavar="N", help="Seed the choice of pairs with N.  [default: a random seed]")
@click.option(
    "--self-play",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Let a judge vote on N rounds.  [default: people vote]",
)
@click.option(
    "--judge",
    metavar="MODEL",
    help="Judge by the likelihood of MODEL, or ask the chat model behind a URL.  [default: the bundled model]",
)
@yes_option
@threads_option
@db_option
def battle(
    models: tuple[str, ...],
    presets: tuple[str, ...],
    contestants: str | None,
    only: tuple[str, ...],
    category: str | None,
    voter: str,
    seed: int | None,
    self_play: int | None,
    judge: str | None,
    yes: bool,
    threads: int | None,
    db: str | None,
) -> None:
    """Say something; two contestants answer. Vote, and see who they were.

    MODEL is a model file or a name that gpt2rt models lists. With MODEL or --contestants, these play, and are added to
    the file of votes; else everyone does who is not retired.

    \b
    Examples:
      gpt2rt arena battle
      gpt2rt arena 124M-int8.bin --preset chat --preset cool --preset warm
      gpt2rt arena --only demo --only eliza
      gpt2rt arena --self-play 20 --judge 124M-int8.bin
    """
    from gpt2rt.arena.battle import Arena
    from gpt2rt.arena.casting import from_models, from_toml
    from gpt2rt.arena.contestants import Cast

    if judge is not None and self_play is None:
        raise UsageError("--judge: got no --self-play (add it)")
    if presets and not models:
        raise UsageError("--preset: got no MODEL (add one)")
    new = from_models([model_path(model, yes) for model in models], presets)
    new += from_toml(contestants) if contestants is not None else []
    votes = opened_votes(db)
    added = [votes.add(one) for one in new]
    chosen = [votes.named(name) for name in only] or added or playing(votes)
    arena = Arena(chosen, Cast(threads), votes, seed)
    if self_play is not None:
        play_itself(arena, judge, self_play, seed or 0, threads)
        return
    from gpt2rt.cli.battle import Battle

    Battle(arena, category, voter).run()


def play_itself(arena: Any, judge: str | None, n: int, seed: int, threads: int | None) -> None:
    """Let a judge vote on n rounds, and print how they went."""
    from gpt2rt.arena.judge import LikelihoodJudge, UrlJudge, self_play
    from gpt2rt.model import open_model
    from gpt2rt.model_folder import BUNDLED

    if judge is not None and judge.startswith(("http://", "https://")):
        judging: Any = UrlJudge(judge)
    else:
        judging = LikelihoodJudge(open_model(model_path(judge or BUNDLED), n_threads=threads))
    counts: dict[str, int] = {}
    for outcome in self_play(arena, judging, n, seed):
        name = outcome.value if outcome else "void"
        counts[name] = counts.get(name, 0) + 1
    write(f"{counted(n, 'round')}: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}\n")


@command.command("chat", short_help="Talk with one contestant.")
@click.argument("name", metavar="NAME")
@click.option("--script", type=FILE, metavar="FILE", help="Let ELIZA follow the script in FILE.  [default: its own]")
@click.option("--strict", is_flag=True, help="Let ELIZA answer in capitals, as in 1966.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed the random numbers with N.")
@db_option
def chat(name: str, script: str | None, strict: bool, seed: int, db: str | None) -> None:
    """Talk with the contestant NAME: eliza, lstm, greedy, demo or another one. Each line is a message.

    \b
    Examples:
      gpt2rt arena chat eliza
      gpt2rt arena chat eliza --script doctor.txt --strict
      echo "Hello!" | gpt2rt arena chat lstm
    """
    from gpt2rt.arena.contestants import Cast, ElizaPerformer, Performer

    if (script or strict) and name != "eliza":
        raise UsageError("--script, --strict: only eliza has a script (leave them out)")
    performer: Performer
    if script is not None:
        performer = ElizaPerformer(script, strict)
    else:
        contestant = opened_votes(db).named(name)
        performer = Cast().performer(contestant)
        if strict:
            performer = ElizaPerformer(contestant.source, True)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if is_interactive:
        write(f"You talk with {name}. Ctrl-D leaves.\n")
    messages: list[dict[str, str]] = []
    while message := read_line("> " if is_interactive else ""):
        if not message.strip():
            continue
        messages.append({"role": "user", "content": message.strip()})
        answer = ""
        for piece in performer.answer(messages, (seed + len(messages) // 2) % (1 << 32)):
            answer += piece
            write(piece)
        write("\n")
        messages.append({"role": "assistant", "content": answer.strip() or "..."})


def read_line(prompt: str) -> str:
    """Return a line of standard input with its end, "" at the end of the input."""
    if prompt:
        try:
            return input(prompt) + "\n"
        except EOFError:
            write("\n")
            return ""
    return next_line()


@command.command("list", short_help="List the contestants.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@db_option
def list_contestants(as_json: bool, db: str | None) -> None:
    """List all contestants, with their ids, rounds and settings.

    \b
    Examples:
      gpt2rt arena list
      gpt2rt arena list --json
    """
    votes = opened_votes(db)
    counts, known = votes.n_rounds(), votes.contestants()
    names = {one.id: one.name for one in known}
    if as_json:
        for one in known:
            row: dict[str, Any] = {"id": one.id, "name": one.name, "kind": one.kind, "settings": dict(one.settings)}
            row |= {"parent": names.get(one.parent or ""), "retired": one.retired, "rounds": counts[one.id]}
            print_json(row, indent=None)
        return
    rows = [("name", "id", "kind", "rounds", "")]
    for one in tree(known):
        depth = "  " * depth_of(one, known)
        rows.append((depth + one.name, one.id, one.kind, str(counts[one.id]), "retired" if one.retired else ""))
    print_table(rows, as_markdown=False)


def tree(contestants: list[Contestant]) -> list[Contestant]:
    """Return contestants in the order of a family tree: children after their parents."""
    ids = {one.id for one in contestants}
    found: list[Contestant] = []

    def visit(parent: str | None) -> None:
        for one in contestants:
            if (one.parent if one.parent in ids else None) == parent:
                found.append(one)
                visit(one.id)

    visit(None)
    return found


def depth_of(one: Contestant, contestants: list[Contestant]) -> int:
    """Return how many ancestors a contestant has among others."""
    parents, depth = {other.id: other.parent for other in contestants}, 0
    at = one.parent
    while at in parents:
        at, depth = parents[at], depth + 1
    return depth


@command.command("split", short_help="Make mutated variants of a contestant.")
@click.argument("name", metavar="NAME")
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="OPTION=LOW..HIGH",
    help="Vary this option evenly in this range; may be repeated.  [required]",
)
@click.option("--children", type=int, default=2, show_default=True, metavar="N", help="Make N variants.")
@db_option
def split_contestant(name: str, vary: tuple[str, ...], children: int, db: str | None) -> None:
    """Make variants of the contestant NAME, its children: they play from now on.

    \b
    Examples:
      gpt2rt arena split demo --vary temperature=0.5..1.0
      gpt2rt arena split demo --vary temperature=0.4..1.2 --vary top_k=10..100 --children 4
    """
    from gpt2rt.arena.casting import split

    votes = opened_votes(db)
    for child in split(votes.named(name), vary, children):
        added = votes.add(child)
        write(f"{added.id}  {added.name}\n")


@command.command("retire", short_help="Let a contestant play no more.")
@click.argument("name", metavar="NAME")
@click.option("--undo", is_flag=True, help="Let it play again.")
@db_option
def retire(name: str, undo: bool, db: str | None) -> None:
    """Let the contestant NAME play no more. Its rounds stay, and count.

    \b
    Examples:
      gpt2rt arena retire greedy
      gpt2rt arena retire greedy --undo
    """
    votes = opened_votes(db)
    votes.retire(votes.named(name), not undo)


@command.command("leaderboard", short_help="Print the ratings, with their intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=FILE, metavar="FILE", help="Write a page to FILE instead.  [default: print a table]")
@click.option("--category", metavar="NAME", help="Count only rounds of the category NAME.  [default: all]")
@click.option("--judges", is_flag=True, help="Count the votes of judges instead of people's.")
@db_option
def leaderboard(as_json: bool, html: str | None, category: str | None, judges: bool, db: str | None) -> None:
    """Print the ratings of all contestants, with 95% intervals and ranges of ranks; and who won against whom.

    A difference between two contestants is only called decided if it holds however often you look.

    \b
    Examples:
      gpt2rt arena leaderboard
      gpt2rt arena leaderboard --category puzzles
      gpt2rt arena leaderboard --html board.html
    """
    from gpt2rt.arena.standings import JUDGES, PEOPLE, Standings

    standings = Standings(opened_votes(db), origins=JUDGES if judges else PEOPLE, category=category)
    found = standings.as_dict()
    if as_json:
        print_json(found)
    elif html is not None:
        from gpt2rt.arena.page import html_board

        with open(html, "w", encoding="utf-8") as file:
            file.write(html_board(found, f"Arena: {category}" if category else "Arena"))
    else:
        from gpt2rt.cli.leaderboard import print_board

        print_board(found)


@command.command("plan", short_help="Say how many votes a difference needs.")
@click.option(
    "--win-rate",
    "win_rates",
    type=click.FloatRange(0.51, 0.99),
    multiple=True,
    metavar="X",
    help="Let the better one win the part X of the rounds that do not tie.  [default: 0.55, 0.6, 0.7, 0.8]",
)
@click.option(
    "--power",
    type=click.FloatRange(0.1, 0.94),
    default=0.8,
    show_default=True,
    metavar="X",
    help="Name the better one with probability X.",
)
@click.option(
    "--ties",
    type=click.FloatRange(0, 0.9),
    default=0.3,
    show_default=True,
    metavar="X",
    help="Expect the part X of all rounds to tie.",
)
@click.option(
    "--contestants",
    type=click.IntRange(2, 100),
    default=2,
    show_default=True,
    metavar="N",
    help="Compare N contestants, all with each other.",
)
def plan(win_rates: tuple[float, ...], power: float, ties: float, contestants: int) -> None:
    """Say how many votes on a pair name its better contestant, if you look after every vote, or once at the end.

    \b
    Examples:
      gpt2rt arena plan
      gpt2rt arena plan --win-rate 0.6 --ties 0.4 --contestants 4
    """
    import math

    from gpt2rt.arena.plan import votes_needed

    alpha = 0.05 / (contestants * (contestants - 1) // 2)
    rows = [("win rate", "Elo", "votes, if you look after each", "votes, if you look once")]
    for rate in win_rates or (0.55, 0.6, 0.7, 0.8):
        elo = 400 * math.log10(rate / (1 - rate))
        needed = [votes_needed(rate, power, ties, anytime=anytime, alpha=alpha) for anytime in (True, False)]
        rows.append((f"{rate:g}", f"{elo:.0f}", f"{needed[0]:,}", f"{needed[1]:,}"))
    print_table(rows, as_markdown=False)


@command.command("import", short_help="Add votes of FastChat or LMArena.")
@click.argument("file", type=FILE, metavar="FILE")
@db_option
def import_file(file: str, db: str | None) -> None:
    """Add the votes of FILE, JSON lines as FastChat logs them or as LMArena publishes them.

    A vote that is there already is not added again. If a line is wrong, nothing is added.

    \b
    Examples:
      gpt2rt arena import battles.jsonl
      gpt2rt arena import battles.jsonl --db lmarena.sqlite
    """
    from gpt2rt.arena.exchange import import_votes
    from gpt2rt.cli.files import read_text

    n_added, n_known = import_votes(opened_votes(db), lines_of(read_text(file)))
    write(f"{counted(n_added, 'vote')} added, {n_known} there already\n")


@command.command("export", short_help="Print the votes as JSON lines.")
@click.option(
    "--form",
    type=click.Choice(["fastchat", "lmarena"]),
    default="lmarena",
    show_default=True,
    help="Write them as FastChat or as LMArena does.",
)
@db_option
def export(form: str, db: str | None) -> None:
    """Print people's votes as JSON lines.

    \b
    Example:
      gpt2rt arena export > votes.jsonl
    """
    from gpt2rt.arena.exchange import export_votes

    for line in export_votes(opened_votes(db), form):
        write(line + "\n")
