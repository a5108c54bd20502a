"""Predict how long a batch job takes on many machines, from what one machine measures, and check it by simulation.

    python bench/batch_scaling.py 124M-int8.bin
    python bench/batch_scaling.py 124M-int8.bin --ray
    python bench/batch_scaling.py 124M-int8.bin --rows 1000000 --texts corpus.jsonl --json

One process reads the input and writes the answers (the driver); every place, a task on some node, answers one shard
after the other. Measured here, with rows of random words or those of a file:

    survey  seconds of the driver per row, before anything else: read, parse, hash
    driver  seconds of the driver per shard: read it, write the answers, fsync, rename. With --ray, for its tasks too,
            in a cluster of this machine, with rows without text, which take no work. --driver sets it
    row     seconds of one thread per row, scored by perplexity

The model, for n rows in shards of s and P places:

    seconds = survey * n + max(row * n / P, driver * n / s) + row * s / 2

The first term does not shrink. The second one stops to shrink at P = row * s / driver places, where the driver is busy
all the time. The last one is what most places wait for the last shards; with fewer shards than places, the others have
nothing to do. The simulation has what the model leaves out: rows of different lengths, two shards given to each place
in advance, and a driver that does one thing after another.
"""

import heapq
import json
import pathlib
import random
import statistics
import tempfile
from functools import partial
from time import perf_counter

import click
from table import markdown
from words import random_text

from gpt2rt.benchmark import cpu_name
from gpt2rt.errors import Gpt2rtError
from gpt2rt.jobs.job import Job
from gpt2rt.jobs.local import AHEAD, in_this_process
from gpt2rt.jobs.shard import Answers, Call
from gpt2rt.jobs.source import Source
from gpt2rt.jobs.tasks import Perplexity
from gpt2rt.model import open_model

PLACES = [4**k for k in range(8)]
RAY_SHARDS = (50, 1050)  # of a short job and a long one; the difference has no start in it
NETWORK = 0.001  # seconds from the driver to a place and back, of the simulation
MANY = 50  # times that the sample is read to measure the survey
SPREAD = 0.5  # standard deviation of the logarithm of a row's time


class Costs:
    """What was measured, in seconds.

    Attributes:
        survey: per row. driver: per shard. row: per row, of one place.
    """

    def __init__(self, survey, driver, row):
        self.survey, self.driver, self.row = survey, driver, row

    def seconds(self, n_rows, shard_size, n_places):
        """Return how long a job takes, by the model."""
        places = min(n_places, -(-n_rows // shard_size))
        busy = max(self.row * n_rows / places, self.driver * n_rows / shard_size)
        return self.survey * n_rows + busy + self.row * shard_size / 2

    def most_places(self, n_rows, shard_size):
        """Return the number of places from which on more of them don't help."""
        return min(self.row * shard_size / self.driver, n_rows / shard_size)


def simulated(costs, n_rows, shard_size, n_places, seed=0):
    """Return how long a job takes, shard by shard."""
    generator = random.Random(seed)
    mean = -(SPREAD**2) / 2  # of the logarithm, so that the mean time is that of the model
    # Rows differ; the time of a shard is the sum of its rows' times, which is nearly normal.
    deviation = (pow(2.718281828, SPREAD**2) - 1) ** 0.5
    n_shards = -(-n_rows // shard_size)
    left = [min(shard_size, n_rows - i * shard_size) for i in range(n_shards)][::-1]
    driver_free = costs.survey * n_rows
    place_free = [0.0] * n_places
    events = []  # (time at which the driver gets a shard's answers, place)

    def work_of(rows):
        if rows <= 32:
            return costs.row * sum(generator.lognormvariate(mean, SPREAD) for _ in range(rows))
        return costs.row * max(0.1 * rows, generator.gauss(rows, deviation * rows**0.5))

    def give(place, now):
        begin = max(place_free[place], now + NETWORK / 2)
        place_free[place] = begin + work_of(left.pop())
        heapq.heappush(events, (place_free[place] + NETWORK / 2, place))

    for _ in range(AHEAD):
        for place in range(n_places):
            if left:
                driver_free += costs.driver / 2  # reading is about half of it
                give(place, driver_free)
    while events:
        at, place = heapq.heappop(events)
        driver_free = max(driver_free, at) + costs.driver / 2
        if left:
            driver_free += costs.driver / 2
            give(place, driver_free)
    return driver_free


def measure(model, rows, shard_size, folder, rounds):
    """Measure the costs: the medians of some rounds."""
    task, found = Perplexity(), []
    call, many = Call(model.path, model.checksums, task, 1, 16), folder / "many.jsonl"

    def nothing(shards, _):
        for shard in shards:
            yield Answers(shard.number, b'{"row": 0}\n' * len(shard.rows), 0)

    def answers(shards, on_rows):
        return in_this_process(call, shards, on_rows)

    for i in range(rounds):
        seconds = []
        for name, executor in (("null", nothing), ("work", answers)):
            source = Source(str(rows), id_field="id", columns=task.columns)
            job = Job(model, source, task, str(folder / f"{name}{i}"), shard_size=shard_size)
            begin = perf_counter()
            job.run(executor, lambda _: None, lambda _: None)
            seconds.append(perf_counter() - begin)
        many.write_bytes(rows.read_bytes() * MANY)
        begin = perf_counter()
        Source(str(many), id_field="id").survey(task.needed_field)
        survey = (perf_counter() - begin) / MANY
        driver, work = seconds
        found.append((survey / job.n_rows, driver / job.n_shards, (work - driver) / job.n_rows))
    return Costs(*(statistics.median(values) for values in zip(*found, strict=True)))


def driver_on_ray(model, shard_size, folder):
    """Return the seconds of the driver for a shard that a task of Ray answers, in a cluster of this machine."""
    from gpt2rt.jobs.on_ray import on_ray

    task = Perplexity(bos=False)
    call = Call(model.path, model.checksums, task, 1, 16)
    seconds = []
    for n_shards in RAY_SHARDS:
        rows = folder / f"{n_shards}.jsonl"
        rows.write_text('{"text": ""}\n' * (n_shards * shard_size))
        job = Job(model, Source(str(rows), id_field="id"), task, str(folder / f"ray{n_shards}"), shard_size=shard_size)
        begin = perf_counter()
        job.run(partial(on_ray, call, address=None), lambda _: None, lambda _: None)
        seconds.append(perf_counter() - begin)
    return (seconds[1] - seconds[0]) / (RAY_SHARDS[1] - RAY_SHARDS[0])


def write_texts(path, model, n_rows):
    """Write rows of 20 to 120 tokens."""
    generator = random.Random(0)
    with open(path, "w") as file:
        for i in range(n_rows):
            text = random_text(model.tokenizer, generator.randint(20, 120), generator)
            file.write(json.dumps({"id": i, "text": text}) + "\n")
    return path


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(exists=True, dir_okay=False))
@click.option("--texts", type=click.Path(exists=True, dir_okay=False), help="Measure with the rows of this file.")
@click.option("--sample", type=click.IntRange(1), default=256, show_default=True, help="Measure with so many rows.")
@click.option("--rows", type=click.IntRange(1), default=1_000_000, show_default=True, help="Predict for so many rows.")
@click.option("--shard-size", type=click.IntRange(1), default=128, show_default=True, help="Rows of a shard.")
@click.option("--driver", type=click.FloatRange(0), metavar="MS", help="Take this for the driver's ms per shard.")
@click.option("--ray", is_flag=True, help="Measure the driver's ms per shard with tasks of Ray.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measure so many times.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(path, texts, sample, rows, shard_size, driver, ray, rounds, as_json):
    """Predict how long it takes to score a corpus with the model file MODEL on many machines."""
    try:
        model = open_model(path, n_threads=1)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            given = pathlib.Path(texts) if texts else write_texts(folder / "rows.jsonl", model, sample)
            costs = measure(model, given, min(shard_size, sample), folder, rounds)
            if ray:
                costs.driver = driver_on_ray(model, shard_size, folder)
    except Gpt2rtError as error:
        raise click.ClickException(str(error)) from None
    if driver is not None:
        costs.driver = driver / 1e3
    predictions = [
        (places, costs.seconds(rows, shard_size, places), simulated(costs, rows, shard_size, places))
        for places in PLACES
    ]
    most = costs.most_places(rows, shard_size)
    if as_json:
        found = {"survey": costs.survey, "driver": costs.driver, "row": costs.row, "most_places": most}
        names = ("places", "model", "simulation")
        table = [dict(zip(names, row, strict=True)) for row in predictions]
        click.echo(json.dumps({"machine": {"cpu": cpu_name()}, **found, "predictions": table}, indent=1))
        return
    click.echo(
        f"survey {1e6 * costs.survey:.1f} us per row, driver {1e3 * costs.driver:.2f} ms per shard,"
        f" row {1e3 * costs.row:.2f} ms; more than {most:,.0f} places don't help"
    )
    one = costs.seconds(rows, shard_size, 1)
    click.echo(markdown(("places", "model, s", "simulation, s", "difference", "speedup per place")))
    click.echo(markdown(("---",) * 5))
    for places, seconds, check in predictions:
        difference = f"{seconds / check - 1:+.1%}"
        row = f"{places:,}", f"{seconds:,.0f}", f"{check:,.0f}", difference, f"{one / seconds / places:.0%}"
        click.echo(markdown(row))


if __name__ == "__main__":
    main()
