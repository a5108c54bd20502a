"""gpt2rt serve: serve models over HTTP."""

from __future__ import annotations

import contextlib
import os

import click

from gpt2rt.cli import needing
from gpt2rt.cli.arena import db_option
from gpt2rt.cli.model_argument import MODEL, model_path, yes_option
from gpt2rt.cli.sampling_options import model_options
from gpt2rt.cli.signals import ending_until
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.model_folder import BUNDLED, SUFFIX, released_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.arena.battle import Arena
    from gpt2rt.arena.votes import Votes
    from gpt2rt.serve.served_model import ServedModel

KEY_VARIABLE = "GPT2RT_API_KEY"


@click.command("serve", short_help="Serve models over HTTP, as OpenAI's API.")
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Listen on ADDRESS.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="Listen on port N; 0 for any free one.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    envvar=KEY_VARIABLE,
    help=f"Answer only requests with KEY.  [default: the variable {KEY_VARIABLE}, else none is needed]",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0, 1_000_000),
    default=256,
    show_default=True,
    metavar="N",
    help="Let at most N texts of a model wait; refuse more.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    metavar="N",
    help="Generate at most N texts of a model together.",
)
@click.option(
    "--kv-cache",
    type=click.IntRange(1, 1_000_000),
    default=1024,
    show_default=True,
    metavar="MB",
    help="Use at most MB megabytes for running texts and for ended ones whose beginnings may come again.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86_400),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up a request after SECONDS.",
)
@click.option(
    "--truncation",
    type=click.Choice(["disabled", "auto"]),
    default="disabled",
    show_default=True,
    help="What a conversation becomes that does not fit the context: an error, or shorter by its oldest turns.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Accept NAME as this machine's name in requests; * for any.  [default: localhost and addresses]",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="URL",
    help="Let pages of the site URL use the server.  [default: none]",
)
@click.option("--lenient", is_flag=True, help="Ignore unknown fields of requests, and report them in a header.")
@click.option(
    "--log-level",
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    default="info",
    show_default=True,
    help="Log from this level on; info has a line for each request.",
)
@db_option
@yes_option
@model_options
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    max_queue: int,
    max_batch: int,
    kv_cache: int,
    timeout: float,
    truncation: str,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    lenient: bool,
    log_level: str,
    db: str | None,
    yes: bool,
    threads: int | None,
    kv_type: str | None,
    no_mmap: bool,
) -> None:
    """Serve models over HTTP, in the way of OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models.

    MODEL is a model file, or a name that gpt2rt models lists; without one, the bundled model is served. Requests use
    the model's name, or its file's without the ending; NAME=MODEL gives it another one.

    When the server is ready, it prints its address, which in a browser shows a page: a chat, a notebook, and the arena
    (gpt2rt arena -h), in which the served models play against the other contestants. Ctrl-C stops it.

    \b
    Examples:
      gpt2rt serve
      gpt2rt serve 124M small=124M-int4.bin --port 8080
      curl localhost:8000/v1/chat/completions -H "Content-Type: application/json" \\
        -d '{"messages": [{"role": "user", "content": "Hello!"}]}'
    """
    with needing("gpt2rt serve needs", "server"):
        from gpt2rt.serve.app import Service, Settings
        from gpt2rt.serve.server import listening_socket, make_server, url_of

    if api_key == "":
        raise UsageError("--api-key: it is empty, expected a key")
    settings = Settings(
        api_key=api_key,
        max_queue=max_queue,
        max_batch=max_batch,
        kv_cache=kv_cache,
        timeout=timeout,
        allow_hosts=(*allow_host, host),
        allow_origins=allow_origin,
        truncation=truncation,
        is_lenient=lenient,
    )
    opened = open_models(models or (BUNDLED,), yes, threads, kv_type, no_mmap)
    listening = listening_socket(host, port)
    names = ", ".join(model.name for model in opened)
    server = make_server(
        Service(opened, settings, lambda: opened_arena(opened, db, threads)),
        lambda: click.echo(f"serving {names} at {url_of(listening)} (Ctrl-C stops it)"),
        log_level,
    )
    # uvicorn looks for signals, and raises them again when all is done
    with listening, contextlib.suppress(KeyboardInterrupt), ending_until(lambda: server.started):
        server.run([listening])
        if not server.should_exit:
            raise Gpt2rtError("the server stopped after an internal error (its log has it)")


def opened_arena(served: list[ServedModel], db: str | None, threads: int | None) -> tuple[Arena, Votes]:
    """Return an arena of the served models and of all other contestants who are not retired, and its votes."""
    from gpt2rt.arena.battle import Arena
    from gpt2rt.arena.contestants import Cast, model_contestant
    from gpt2rt.cli.arena import opened_votes, playing

    votes = opened_votes(db)
    for one in served:
        votes.add(model_contestant(one.name, one.model.path))
    models = {os.path.abspath(one.model.path): one.model for one in served}
    return Arena(playing(votes), Cast(threads, models), votes), votes


def open_models(
    arguments: tuple[str, ...], yes: bool, threads: int | None, kv_type: str | None, no_mmap: bool
) -> list[ServedModel]:
    """Open the models under the names that requests give.

    Raises:
        UsageError: two have the same name. Gpt2rtError: as `model_path` and `open_model`.
    """
    from gpt2rt.model import open_model
    from gpt2rt.serve.served_model import ServedModel

    found: dict[str, ServedModel] = {}
    for argument in arguments:
        name, model = name_and_model(argument)
        if name in found:
            raise UsageError(f"{argument}: got two models with the name {name} (give one another: NAME=MODEL)")
        opened = open_model(model_path(model, yes), n_threads=threads, use_mmap=not no_mmap, kv_type=kv_type)
        found[name] = ServedModel(name, opened)
    return list(found.values())


def name_and_model(argument: str) -> tuple[str, str]:
    """Return the name of a model in requests, and what MODEL says."""
    name, equals, model = argument.partition("=")
    if equals and name and model and os.path.basename(name) == name and not os.path.exists(argument):
        return name, model
    return released_size(argument) or os.path.basename(argument).removesuffix(SUFFIX), argument
