"""gpt2rt chat: talks with a model."""

from __future__ import annotations

import contextlib
import os
import sys

import click
from click.core import ParameterSource

from gpt2rt.cli import EXIT_ERROR, complain
from gpt2rt.cli.files import named_file, read_text
from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.parameters import CHAT_FORMAT, FILE
from gpt2rt.cli.sampling_options import given, model_options, sampling_options
from gpt2rt.cli.terminal import line_editing, printable, speed, write
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.sampling import CHAT_DEFAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.chat import Answer, Conversation

HELP = """\
/help              this list
/reset             drop all turns
/undo              take the last turn back
/retry             answer the last message again, differently
/save FILE         save the conversation
/load FILE         go on with a saved one
/set               show the settings
/set NAME VALUE    change one
/stats             speed, use of the context, seed
/quit              leave (so does Ctrl-D; Ctrl-C stops an answer)"""


@click.command("chat", short_help="Talk with a model.")
@model_argument()
@click.option(
    "--format",
    "chat_format",
    type=CHAT_FORMAT,
    help="Format the conversation in this way.  [default: as the model file says, else plain]",
)
@click.option(
    "--user-name", metavar="NAME", help="Set your name in the chat.  [default: as the model file says, else Sam]"
)
@click.option("--bot-name", metavar="NAME", help="Set the model's name.  [default: as the model file says, else Emma]")
@click.option(
    "--opening",
    type=FILE,
    metavar="FILE",
    help="Put this text before the first turn: a scene, example turns.  [default: as the model file says]",
)
@click.option(
    "--drafts",
    type=int,
    metavar="N",
    default=1,
    show_default=True,
    help="Sample N answers together and print the best one.",
)
@sampling_options(120, CHAT_DEFAULTS)
@model_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    chat_format: str | None,
    user_name: str | None,
    bot_name: str | None,
    opening: str | None,
    drafts: int,
    max_tokens: int | None,
    stop: tuple[str, ...],
    seed: int | None,
    threads: int | None,
    no_mmap: bool,
    **options: float | None,
) -> None:
    """Talk with MODEL, a model file or a name that gpt2rt models lists; by default the small bundled model.

    Standard input may be a pipe: every line is a message, and only the answers are printed.

    \b
    Examples:
      gpt2rt chat
      gpt2rt chat 124M
      gpt2rt chat 124M-int8.bin --bot-name Alice --temperature 0.9
      echo "How are you?" | gpt2rt chat 124M-int8.bin --seed 7
    """
    from gpt2rt.chat import Conversation
    from gpt2rt.model import open_model

    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap)
    conversation = Conversation(
        opened,
        format=chat_format,
        user_name=user_name,
        bot_name=bot_name,
        opening=None if opening is None else read_text(opening),
        seed=seed,
        max_tokens=max_tokens,
        stop=stop,
        drafts=drafts,
        **given(options),
    )
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    talk = Talk(conversation, is_interactive)
    greet(
        conversation,
        is_interactive,
        is_bundled=ctx.get_parameter_source("model") is not ParameterSource.COMMANDLINE,
        is_drawn=seed is None,
    )
    ctx.exit(talk.run())


def greet(conversation: Conversation, is_interactive: bool, is_bundled: bool, is_drawn: bool) -> None:
    """Says what this is and how to leave; where nobody sits at a terminal, only what is worth a log."""
    model = conversation.model
    if is_interactive:
        name = printable(str(model.metadata.get("name") or os.path.basename(model.path)))
        millions = model.hyperparameters.n_parameters / 1e6
        click.echo(
            f"This is {name}, a GPT-2 of {millions:.1f} million parameters (seed {conversation.seed})."
            " It knows little and makes things up."
        )
        click.echo("Ctrl-D or /quit leaves, Ctrl-C stops an answer, /help lists the commands.")
    elif is_drawn:
        click.echo(f"seed {conversation.seed}", err=True)
    if is_bundled:
        click.echo(
            "It is the small bundled model; OpenAI's: gpt2rt chat 124M.",
            err=not is_interactive,
        )


class Talk:
    """Messages and commands from a terminal or a pipe, until one says to leave."""

    def __init__(self, conversation: Conversation, is_interactive: bool):
        self.conversation = conversation
        self.is_interactive = is_interactive
        self.answer: Answer | None = None  # the last one, for /stats
        self.status = 0
        self.commands = {
            "help": self.help,
            "reset": self.reset,
            "undo": self.undo,
            "retry": self.retry,
            "save": self.save,
            "load": self.load,
            "set": self.set,
            "stats": self.stats,
        }

    def run(self) -> int:
        """Talks until the end; returns the exit code."""
        with line_editing() if self.is_interactive else contextlib.nullcontext():
            while (line := self.read_line()) is not None:
                if line.strip() == "/quit":
                    break
                try:
                    self.react(line)
                except Gpt2rtError as error:
                    complain(str(error))
                    if not self.is_interactive:
                        self.status = EXIT_ERROR
                except KeyboardInterrupt:
                    if not self.is_interactive:
                        raise
                    click.echo()
        return self.status

    def read_line(self) -> str | None:
        """The next line, None at the end."""
        if not self.is_interactive:
            return sys.stdin.readline() or None
        is_talk = self.conversation.format.is_talk
        while True:
            try:
                return input(f"{self.conversation.format.user_name}: " if is_talk else "> ")
            except EOFError:
                click.echo()
                return None
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D or /quit leaves)")

    def react(self, line: str) -> None:
        """Obeys a command, or says the line to the model."""
        if not line.strip():
            return
        if not line.startswith("/"):
            self.show(self.conversation.say(line.rstrip("\n")))
            return
        name, _, argument = line[1:].strip().partition(" ")
        if name not in self.commands:
            raise UsageError(f"command /{printable(name):.40}: there is none of that name (/help lists them)")
        self.commands[name](argument.strip())

    def show(self, answer: Answer) -> None:
        """Prints an answer while it is drawn. Ctrl-C stops it and keeps what there is."""
        self.answer = answer
        if answer.n_dropped:
            turns = "turn was" if answer.n_dropped == 1 else f"{answer.n_dropped} turns were"
            self.note(f"(the context was full: the oldest {turns} dropped)")
        if self.is_interactive and self.conversation.format.is_talk:
            write(f"{self.conversation.format.bot_name}: ")
        shown = 0
        try:
            for piece in answer:
                shown += len(piece)
                if self.is_interactive:
                    write(piece)
                else:
                    sys.stdout.write(piece)
        except KeyboardInterrupt:
            answer.close()
            if not self.is_interactive:
                raise
        write(f"{answer.text[shown:]}\n")
        if not answer.text:
            stopped = answer.finish_reason == "interrupted"
            self.note(
                "(stopped before a word; your message is taken back)" if stopped else "(no answer; put it differently)"
            )

    def note(self, text: str) -> None:
        """A remark of ours, apart from the answers."""
        click.echo(text, err=not self.is_interactive)

    # --- commands

    def help(self, _: str) -> None:
        self.note(HELP)

    def reset(self, _: str) -> None:
        self.conversation.reset()
        self.note("(all turns dropped)")

    def undo(self, _: str) -> None:
        turn = self.conversation.undo()
        self.note(f"(taken back: {printable(turn.user):.60})")

    def retry(self, _: str) -> None:
        self.show(self.conversation.retry())

    def save(self, path: str) -> None:
        from gpt2rt.transcript import save_transcript

        save_transcript(self.conversation, named_file(path, "/save"))
        self.note(f"(saved {self.turns()} to {path})")

    def load(self, path: str) -> None:
        from gpt2rt.transcript import load_transcript

        load_transcript(self.conversation, named_file(path, "/load"))
        self.note(f"(loaded {self.turns()} from {path})")

    def set(self, argument: str) -> None:
        settings = self.conversation.settings()
        if not argument:
            for name, value in settings.items():
                self.note(f"{name:22}{value}")
            return
        name, _, text = argument.partition(" ")
        name = name.replace("-", "_")
        kind = type(settings.get(name, 0.0))
        try:
            value = kind(text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise UsageError(f"/set {name:.40}: got {text!r:.40}, expected {noun}") from None
        self.conversation.set(name, value)
        self.note(f"({name} is now {self.conversation.settings()[name]})")

    def stats(self, _: str) -> None:
        conversation, answer = self.conversation, self.answer
        self.note(
            f"context   {len(conversation.sequence)} of {conversation.sequence.n_ctx} tokens,"
            f" {self.turns()}, {conversation.n_dropped} dropped"
        )
        if answer is not None:
            read, drawn = speed(answer.n_prompt_tokens, answer.prompt_seconds), speed(answer.n_tokens, answer.seconds)
            self.note(f"prompt    {answer.n_prompt_tokens} tokens read, {read}")
            self.note(f"answer    {answer.n_tokens} tokens drawn, {drawn}")
        self.note(f"threads   {conversation.model.n_threads}")
        self.note(f"seed      {conversation.seed}")

    def turns(self) -> str:
        """How many turns there are."""
        n = len(self.conversation.turns)
        return f"{n} turn{'' if n == 1 else 's'}"
