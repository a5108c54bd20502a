"""Measures gpt2rt, and its peers beside it, and writes what it finds into docs/performance.md.

pip install '.[bench]' && python bench/performance
"""

import json
from pathlib import Path

import click
import ours
import page
import peers
from environments import PeerError
from models import PeerModels, random_checkpoint

from gpt2rt.threads import default_threads

ROOT = Path(__file__).parents[2]


@click.command()
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / ".cache" / "performance",
    help="Keeps environments, models and results; about 16 GB.  [default: .cache/performance]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A 124M checkpoint as OpenAI releases it.  [default: one with random weights is made]",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder with encoder.json and vocab.bpe, for checkpoints that are made.  [default: a made-up vocabulary]",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Measurements of each figure.")
@click.option("--threads", type=click.IntRange(1), default=default_threads(), show_default=True)
@click.option("--part", type=click.Choice(["peers", "ours", "page"]), multiple=True, help="Only so much; repeatable.")
def main(cache, checkpoint, vocabulary, rounds, threads, part):
    """Measures gpt2rt and its peers on one checkpoint, in alternating rounds, and writes docs/performance.md.

    The first run installs the peers (llama.cpp is compiled) and makes the checkpoints: about an hour. Later runs take
    some twenty minutes. Nothing else should run on the machine.
    """
    cache = cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    results, wanted = cache / "results.json", part or ("peers", "ours", "page")
    found = json.loads(results.read_text()) if results.exists() else {}

    def say(line):
        click.echo(line, err=True)

    try:
        if checkpoint is None and set(wanted) != {"page"}:
            checkpoint = random_checkpoint("124M", cache / "124M", vocabulary, cache / "checkpoints.log")
        if "peers" in wanted:
            models = PeerModels(checkpoint, cache / "models")
            found["peers"] = peers.compare(models, cache, threads, rounds, say)
            results.write_text(json.dumps(found, indent=1))
        if "ours" in wanted:
            found["ours"] = ours.measure(checkpoint, vocabulary, cache, threads, rounds, say)
            results.write_text(json.dumps(found, indent=1))
        if "page" in wanted:
            page.write(found, ROOT / "docs" / "performance.md")
    except PeerError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
