"""Measure whether the best of several drafts is a better answer, for scores that the model itself can compute.

    python bench/rerank.py heldout_dialogues.jsonl.xz [MODEL] [--drafts 8]

For every answer to the user in the dialogues, after up to six earlier turns, the model samples drafts as in a chat in
the plain format, and each score chooses one. A Markdown table describes the chosen drafts: number of words; by how much
their F1 (of words, against the true answer) exceeds the mean of the drafts; how much of that is not explained by their
length, since longer texts match more words; distinct-2; the fraction that equals an earlier one. +- is the standard
error of the mean.
"""

import math

import click
import numpy as np
from chat_quality import DEMO, distinct, f1, read_dialogues, reply_after

import gpt2rt
from gpt2rt.chat import Conversation
from gpt2rt.errors import Gpt2rtError
from gpt2rt.reply import words_of

# Arrays over drafts. f, a, b: log probabilities of the answer after the chat, of the answer alone, and of the message
# after the answer (backward; Li et al. 2016, DialoGPT). n, m: tokens of the answer and the message.
SCORES = {
    "the first": lambda f, a, b, n, m: -np.arange(len(n)),
    "the longest": lambda f, a, b, n, m: n,
    "f": lambda f, a, b, n, m: f,
    "f / n": lambda f, a, b, n, m: f / n,
    "f - a": lambda f, a, b, n, m: f - a,
    "(f - a) / n": lambda f, a, b, n, m: (f - a) / n,
    "(f - a / 2) / n": lambda f, a, b, n, m: (f - a / 2) / n,
    "b": lambda f, a, b, n, m: b,
    "f / n + b / m": lambda f, a, b, n, m: f / n + b / m,
}
MOST_TURNS = 6  # before the message; together they fit the context


def log_probability(model, before, tokens):
    """Return the log probability of tokens after others, with temperature 1 and no filters."""
    return sum(model.score(before + tokens)[len(before) :])


def drafts_of(conversation, turns, n_drafts):
    """Return the texts of drafts of the last turn, and the inputs of `SCORES` (n_drafts, 5); None if one is blank."""
    model, form = conversation.model, conversation.format
    message = form.clean(turns[-2])
    asked = form.answer(message) + form.closing_tokens
    texts, scores = [], []
    for _ in range(n_drafts):
        text = reply_after(conversation, turns).text
        if not text:
            return None
        *earlier, last = conversation.turns
        before = [token for turn in earlier for token in form.prompt(turn.user) + turn.tokens + form.closing_tokens]
        answer = last.tokens + form.closing_tokens
        alone = model.tokenizer.encode(f"{form.bot_name}:")
        scores.append((
            log_probability(model, form.opening_tokens + before + form.prompt(message), answer),
            log_probability(model, alone, answer),
            log_probability(model, form.prompt(text), asked),
            len(answer),
            len(asked),
        ))  # fmt: skip
        texts.append(text)
    return texts, np.array(scores)


def owed_to_length(gains, words):
    """Return the part of the gains (n, n_drafts), centered by row, that is explained by the numbers of words."""
    shapes = np.stack([words, np.sqrt(words), np.log1p(words)], -1)
    shapes -= shapes.mean(1, keepdims=True)
    weights, *_ = np.linalg.lstsq(shapes.reshape(-1, 3), gains.ravel(), rcond=None)
    return shapes @ weights


def with_error(values):
    """Format the mean of fractions and its standard error, in percent."""
    return f"{100 * values.mean():+.2f} +- {100 * values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def table(found, answers):
    """Return a Markdown table. found: the result of `drafts_of` for each of the true answers."""
    words = np.array([[len(words_of(text).split()) for text in texts] for texts, _ in found], float)
    gains = np.array([[f1(text, true) for text in texts] for (texts, _), true in zip(found, answers, strict=True)])
    mean = gains.mean()
    gains -= gains.mean(1, keepdims=True)
    beyond = gains - owed_to_length(gains, words)
    heads = [f"{len(found):,} times the best of {words.shape[1]}", "words", f"F1 above {100 * mean:.2f}%"]
    lines = ["| " + " | ".join([*heads, "at equal length", "distinct-2", "same"]) + " |", "|---" * 6 + "|"]
    rows = np.arange(len(found))
    for name, score in SCORES.items():
        chosen = np.array([score(*scores.T).argmax() for _, scores in found])
        texts = [words_of(texts[i]) for (texts, _), i in zip(found, chosen, strict=True)]
        lines.append(
            f"| {name} | {words[rows, chosen].mean():.1f} | {with_error(gains[rows, chosen])} |"
            f" {with_error(beyond[rows, chosen])} | {100 * distinct(texts, 2):.1f}% |"
            f" {100 * (1 - len(set(texts)) / len(texts)):.1f}% |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("dialogues")
@click.argument("model", default=DEMO)
@click.option("--drafts", type=click.IntRange(2), default=8, show_default=True, help="Drafts of an answer.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads; 1 is best for small models.")
def main(dialogues, model, drafts, threads):
    """Compare scores that choose among drafts of the model file MODEL, or of the bundled model."""
    found, answers = [], []
    try:
        opened = gpt2rt.open_model(model, n_threads=threads)
        for turns in read_dialogues(dialogues):
            for end in range(2, len(turns) + 1, 2):
                conversation = Conversation(opened, format="plain", seed=len(found))
                made = drafts_of(conversation, turns[max(0, end - 2 - MOST_TURNS) : end], drafts)
                if made:
                    found.append(made)
                    answers.append(turns[end - 1])
    except (OSError, Gpt2rtError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(table(found, answers))


if __name__ == "__main__":
    main()
