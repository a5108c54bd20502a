"""Measure gpt2rt and its peers, and write the results into docs/performance.md.

pip install '.[bench]' && python bench/performance
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

sys.path.append(str(Path(__file__).parents[1]))  # for worker.py

import ours
import page
import peers
from environments import PeerError
from models import PeerModels, random_checkpoint
from worker import WorkerError

from gpt2rt.threads import default_threads

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"


@click.command()
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep environments, models and results here; about 16 GB.  [default: .cache/performance]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Use this 124M checkpoint, as released by OpenAI.  [default: make one with random weights]",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Use encoder.json and vocab.bpe of this folder in generated checkpoints.  [default: synthetic ones]",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Measure each figure N times.")
@click.option("--threads", type=click.IntRange(1), default=default_threads(), show_default=True)
@click.option("--part", type=click.Choice(["peers", "ours", "page"]), multiple=True, help="Run this part; repeatable.")
@click.option(
    "--smoke",
    is_flag=True,
    help="Only check that everything runs: one round of a tiny model, with the peers installed in this environment."
    " Nothing is downloaded, and the page is written to the cache folder, by default a temporary one.",
)
def main(cache, checkpoint, vocabulary, rounds, threads, part, smoke):
    """Measure gpt2rt and its peers on one checkpoint, in alternating rounds, and write docs/performance.md.

    The first run installs the peers (llama.cpp is compiled) and makes the checkpoints, which takes about an hour; later
    runs take about twenty minutes. Nothing else should run on the machine.
    """
    parts = part or ("peers", "ours", "page")
    if not smoke:
        cache = (cache or ROOT / ".cache" / "performance").absolute()
        measure(cache, checkpoint, vocabulary, rounds, threads, parts, ours.FULL, PAGE)
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        cache = (cache or Path(temporary)).absolute()
        cache.mkdir(parents=True, exist_ok=True)
        copy = Path(shutil.copy(PAGE, cache))
        measure(cache, checkpoint, vocabulary, 1, threads, parts, ours.SMOKE, copy)


def measure(cache, checkpoint, vocabulary, rounds, threads, parts, scale, path):
    """Run the parts and write their results into the page at `path`."""
    cache.mkdir(parents=True, exist_ok=True)
    results = cache / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}

    def say(line):
        click.echo(line, err=True)

    def keep(name, result):
        found[name] = json.loads(json.dumps(result))  # so that keys are strings, as when read from the file
        results.write_text(json.dumps(found, indent=1))

    try:
        if checkpoint is None and set(parts) != {"page"}:
            size, shape = next(iter(scale.sizes.items()))
            checkpoint = random_checkpoint(shape, cache / size, vocabulary, cache / "checkpoints.log")
        if "peers" in parts:
            models = PeerModels(checkpoint, cache / "models")
            keep("peers", peers.compare(models, cache, threads, rounds, say, scale is ours.SMOKE))
        if "ours" in parts:
            keep("ours", ours.measure(checkpoint, vocabulary, cache, threads, rounds, say, scale))
        if "page" in parts:
            page.write(found, path)
            say(f"{path}: written")
    except (PeerError, WorkerError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
