"""gpt2rt chat: talk with a model."""

from __future__ import annotations

import contextlib
import os
import sys

import click
from click.core import ParameterSource

from gpt2rt.cli import EXIT_ERROR, complain
from gpt2rt.cli.files import named_file, read_line, read_text
from gpt2rt.cli.line_editor import LineEditor, file_completions
from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.parameters import CHAT_FORMAT, FILE
from gpt2rt.cli.sampling_options import given, model_options, sampling_options
from gpt2rt.cli.signals import unwound_when_stopped
from gpt2rt.cli.terminal import BOLD_CYAN, BOLD_GREEN, PLAIN, counted, has_colors, printable, sentence, speed, write
from gpt2rt.cli.wrap import WordWrapper, terminal_columns, text_width
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.chat import Answer, Conversation

HELP = """\
/help, /?          list the commands
/retry             answer the last message again, differently
/undo              discard the last turn
/reset             drop all turns
/save FILE         save the conversation
/load FILE         load a saved conversation
/set               list the settings and their defaults
/set NAME          explain a setting
/set NAME VALUE    change a setting
/why               show what the last answer might have been, token by token
/stats             print the speed, the use of the context and the seed
/exit, /quit       leave; so does Ctrl-D (Ctrl-C stops an answer)"""

LEAVING = ("exit", "quit")
N_ALTERNATIVES = 4  # of each token, itself included
ALIASES = {"?": "help"}
WITH_ARGUMENT = ("save", "load", "set")


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
    help="Put this text before the first turn: a scene, example turns."
    "  [default: as the model file says, else example turns]",
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
    max_tokens: int | None,
    stop: tuple[str, ...],
    seed: int | None,
    threads: int | None,
    kv_type: str | None,
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

    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap, kv_type=kv_type)
    conversation = Conversation(
        opened,
        format=chat_format,
        user_name=user_name,
        bot_name=bot_name,
        opening=None if opening is None else read_text(opening),
        seed=seed,
        max_tokens=max_tokens,
        stop=stop,
        **given(options),
    )
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    talk = Talk(conversation, is_interactive)
    is_bundled = ctx.get_parameter_source("model") is not ParameterSource.COMMANDLINE
    talk.greet(is_bundled=is_bundled, is_sampled=seed is None)
    ctx.exit(talk.run())


class Talk:
    """Messages and commands from a terminal or a pipe, until one says to leave."""

    def __init__(self, conversation: Conversation, is_interactive: bool):
        self.conversation = conversation
        self.is_interactive = is_interactive
        self.editor = LineEditor(self.completions)
        self.has_colors = is_interactive and has_colors()
        self.answer: Answer | None = None  # the last one, for /stats
        self.status = 0
        self.has_hinted = False  # that /exit leaves, just now
        self.commands = {
            "help": self.help,
            "reset": self.reset,
            "undo": self.undo,
            "retry": self.retry,
            "save": self.save,
            "load": self.load,
            "set": self.set,
            "stats": self.stats,
            "why": self.why,
        }

    def greet(self, is_bundled: bool, is_sampled: bool) -> None:
        """Print what this is and how to leave; in a pipe, only what is worth a log, to standard error.

        Args:
            is_bundled: the model is the bundled one. is_sampled: the seed was not given.
        """
        model, chat = self.conversation.model, self.conversation.format
        if self.is_interactive:
            name = printable(str(model.metadata.get("name") or os.path.basename(model.path)))
            millions = model.hyperparameters.n_parameters / 1e6
            self.note(
                f"This is {name}, a GPT-2 of {millions:.1f} million parameters (seed {self.conversation.seed})."
                " It knows little and makes things up."
            )
            if chat.is_scene:
                self.note(
                    f"It was not trained to chat, so it continues a scene in which you are {chat.user_name} and it is"
                    f" {chat.bot_name} (--user-name and --bot-name change the names, --opening the scene)."
                )
            self.note("Ctrl-D or /exit leaves, Ctrl-C stops an answer, /help lists the commands.")
        elif is_sampled:
            self.note(f"seed {self.conversation.seed}")
        if is_bundled:
            name = "" if self.is_interactive else "This is the small bundled model. "
            self.note(f"{name}For OpenAI's GPT-2, run gpt2rt chat 124M.")

    def run(self) -> int:
        """Talk until the end and return the exit code."""
        with self.editor.session() if self.is_interactive else contextlib.nullcontext():
            while (message := self.read()) is not None and not self.is_leaving(message):
                try:
                    self.react(message)
                except Gpt2rtError as error:
                    if self.is_interactive:
                        self.note(f"gpt2rt: {sentence(error)}")
                    else:
                        complain(error)
                        self.status = EXIT_ERROR
                except KeyboardInterrupt:
                    if not self.is_interactive:
                        raise
                    click.echo()
        return self.status

    def read(self) -> str | None:
        """Return the next message or command, None at the end."""
        if not self.is_interactive:
            return read_line() or None
        chat = self.conversation.format
        prompt, color = (f"{chat.user_name}: ", BOLD_GREEN) if chat.is_talk else ("> ", "")
        while True:
            try:
                return self.editor.read(prompt, color if self.has_colors else "")
            except EOFError:
                click.echo()
                return None
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D or /exit leaves)")

    def is_leaving(self, message: str) -> bool:
        """Return whether a message is a command to leave. At a terminal, a bare exit is one if it is repeated."""
        word = message.strip().casefold()
        had_hinted, self.has_hinted = self.has_hinted, self.is_interactive and word in LEAVING
        return word.removeprefix("/") in LEAVING and (word.startswith("/") or had_hinted)

    def react(self, message: str) -> None:
        """Obey a command, or say the message to the model. What has several lines is a message."""
        message = message.rstrip("\n")
        if not message.strip():
            return
        if self.has_hinted:
            self.note(f"(type /exit to leave, or {message.strip()} once more)")
            return
        if self.is_interactive and message.strip().casefold() == "help":
            self.note("(/help lists the commands)")
        if not message.startswith("/") or "\n" in message:
            self.show(self.conversation.say(message))
            return
        name, _, argument = message[1:].strip().partition(" ")
        name = ALIASES.get(name, name)
        if argument and name in (*self.commands, *LEAVING) and name not in WITH_ARGUMENT:
            raise UsageError(f"/{name}: got {printable(argument)!r:.40}, expected nothing after the command")
        if name not in self.commands:
            raise UsageError(
                f"command /{printable(name):.40}: unknown ({self.suggestion(name)}/help lists the commands)"
            )
        self.commands[name](argument.strip())

    def suggestion(self, name: str) -> str:
        """Return a question for the command that was probably meant, "" if there is none."""
        from difflib import get_close_matches

        names = (*self.commands, *LEAVING)
        begun = [one for one in names if one.startswith(name)]
        found = begun[:1] or get_close_matches(name, names, 1)
        return f"did you mean /{found[0]}? " if found else ""

    def completions(self, line: str) -> list[str]:
        """Return what a line that begins with a command may become."""
        if not line.startswith("/"):
            return []
        command, space, argument = line.partition(" ")
        if not space:
            names = sorted((*self.commands, *LEAVING))
            return [f"/{name}{' ' if name in WITH_ARGUMENT else ''}" for name in names if f"/{name}".startswith(line)]
        if command == "/set":
            return [f"/set {name} " for name in self.conversation.settings() if name.startswith(argument)]
        if command in ("/save", "/load"):
            return [f"{command} {path}" for path in file_completions(argument)]
        return []

    def show(self, answer: Answer) -> None:
        """Print an answer while it is sampled. Ctrl-C stops it and keeps what there is."""
        self.answer = answer
        if answer.n_dropped:
            turns = "turn was" if answer.n_dropped == 1 else f"{answer.n_dropped} turns were"
            self.note(f"(the context was full: the oldest {turns} dropped)")
        chat, label = self.conversation.format, ""
        if self.is_interactive and chat.is_talk:
            label = f"{chat.bot_name}: "
            sys.stdout.write(f"{BOLD_CYAN}{label}{PLAIN}" if self.has_colors else label)
            sys.stdout.flush()
        # The raw format's text has line breaks of its own.
        columns = terminal_columns() if label else 0
        output = WordWrapper(write if self.is_interactive else sys.stdout.write, columns, text_width(label))
        n_shown = 0
        try:
            for piece in answer:
                n_shown += len(piece)
                output.write(piece)
        except KeyboardInterrupt:
            answer.close()
            if not self.is_interactive:
                raise
        output.write(answer.text[n_shown:])
        output.end()
        write("\n")
        if not answer.text:
            stopped = answer.finish_reason == "interrupted"
            self.note(
                "(stopped before the first word; your message is discarded)"
                if stopped
                else "(no answer; rephrase your message)"
            )

    def note(self, text: str) -> None:
        """Print a remark that is no answer."""
        if not self.is_interactive:
            click.echo(printable(text), err=True)
            return
        output = WordWrapper(write, terminal_columns())
        output.write(f"{text}\n")

    # --- commands

    def help(self, _: str) -> None:
        self.note(f"{HELP}\n\n{self.editor.keys}" if self.is_interactive else HELP)

    def reset(self, _: str) -> None:
        self.conversation.reset()
        self.note("(all turns dropped)")

    def undo(self, _: str) -> None:
        turn = self.conversation.undo()
        self.note(f"(discarded: {printable(turn.user):.60})")

    def retry(self, _: str) -> None:
        self.show(self.conversation.retry())

    def save(self, path: str) -> None:
        from gpt2rt.transcript import save_transcript

        with unwound_when_stopped():
            save_transcript(self.conversation, named_file(path, "/save"))
        self.note(f"(saved {self.turns()} to {path})")

    def load(self, path: str) -> None:
        from gpt2rt.transcript import load_transcript

        load_transcript(self.conversation, named_file(path, "/load"))
        self.note(f"(loaded {self.turns()} from {path})")

    def set(self, argument: str) -> None:
        from difflib import get_close_matches

        settings = self.conversation.settings()
        name, _, text = argument.partition(" ")
        name, text = name.replace("-", "_"), text.strip()
        if not name:
            for one in settings:
                self.note(self.setting(one))
            return
        if name in settings and not text:
            self.note(self.setting(name))
            if name in SAMPLING_OPTIONS:
                self.note(SAMPLING_OPTIONS[name][3])
            return
        if name not in settings and (near := get_close_matches(name, settings, 1)):
            raise UsageError(f"setting {name!r:.40}: unknown (did you mean {near[0]}? /set lists the settings)")
        kind = type(settings.get(name, 0.0))
        try:
            value = kind(text or 0)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise UsageError(f"/set {name:.40}: got {text!r:.40}, expected {noun}") from None
        self.conversation.set(name, value)
        self.note(f"({name} is now {self.conversation.settings()[name]})")

    def setting(self, name: str) -> str:
        """Return a line about a setting: its value, and whether that is the default."""
        value = self.conversation.settings()[name]
        if name == "seed":
            return f"{name:22}{value}"
        default = self.conversation.default_settings()[name]
        return f"{name:22}{value!s:8}{'default' if value == default else f'changed; default {default}'}"

    def stats(self, _: str) -> None:
        conversation, answer = self.conversation, self.answer
        self.note(
            f"context   {len(conversation.sequence)} of {conversation.sequence.n_ctx} tokens,"
            f" {self.turns()}, {conversation.n_dropped} dropped"
        )
        if answer is not None:
            read, sampled = speed(answer.n_prompt_tokens, answer.prompt_seconds), speed(answer.n_tokens, answer.seconds)
            self.note(f"prompt    {counted(answer.n_prompt_tokens, 'token')} read, {read}")
            self.note(f"answer    {counted(answer.n_tokens, 'token')} sampled, {sampled}")
        self.note(f"threads   {conversation.model.n_threads}")
        self.note(f"seed      {conversation.seed}")

    def why(self, _: str) -> None:
        from gpt2rt.cli.tokenize import shown
        from gpt2rt.explain.alternatives import alternatives

        answer, conversation = self.answer, self.conversation
        if answer is None or not answer.tokens:
            raise UsageError("/why: there is no answer yet")
        name = conversation.model.tokenizer.token_bytes
        lines = []
        for token, probability, top in alternatives(
            conversation.sequence, answer.prompt, answer.tokens, N_ALTERNATIVES
        ):
            others = [f"{shown(name(one))} {share:.0%}" for one, share in top if one != token and share >= 0.005]
            instead = f"not {', '.join(others[: N_ALTERNATIVES - 1])}" if others else "nothing else"
            lines.append((shown(name(token)), probability, instead))
        width = max(text_width(text) for text, _, _ in lines)
        for text, probability, instead in lines:
            write(f"{text}{' ' * (width - text_width(text))} {probability:7.2%}  {instead}\n")
        self.note("(the model's own probabilities, before temperature and the other settings)")

    def turns(self) -> str:
        """Return the number of turns as text."""
        return counted(len(self.conversation.turns), "turn")
