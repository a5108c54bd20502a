"""Compare how well a model chats with different sampling options; prints a Markdown table.

    python bench/chat_quality.py [MODEL] [--dialogues heldout_dialogues.jsonl.xz] [--json] [--transcripts 20 FILE]

The model answers the 50 chats of four turns in chats.txt, once for each seed. The figures are those of a run's 200
answers, compared as lowercase words without punctuation:

distinct-1, -2, -3: distinct n-grams divided by all n-grams of all answers (Li et al. 2016).
repeated 4-grams: fraction of an answer's 4-grams that earlier answers of the chat contain.
same in the chat, same at all: fraction of answers that equal an earlier one of their chat, or of the run.
stops: fraction of answers that the model itself ended. tokens: mean length.
F1: of the words of the answer and of the true answer, at the end of each of the dialogues.

+- is the standard error of the mean over the seeds.
"""

import json
import lzma
import math
import pathlib
import statistics
from collections import Counter, namedtuple

import click

import gpt2rt
from gpt2rt.chat import Conversation, Turn
from gpt2rt.errors import Gpt2rtError
from gpt2rt.lines import lines_of
from gpt2rt.reply import words_of
from gpt2rt.sampling import CHAT_DEFAULTS

CHATS = pathlib.Path(__file__).with_name("chats.txt")
DEMO = pathlib.Path(gpt2rt.__file__).parent / "demo.bin"
VARIANTS = {
    "greedy, nothing else": {"temperature": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0},
    "greedy, penalties": {"temperature": 0.0},
    "sampling, nothing else": {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0
    },
    "defaults": {},
    **{f"temperature {value}": {"temperature": value} for value in (0.3, 0.5, 0.85, 1.0)},
    **{f"top_p {value}": {"top_p": value} for value in (0.8, 0.95, 1.0)},
    **{f"repetition_penalty {value}": {"repetition_penalty": value} for value in (1.0, 1.1, 1.2)},
    **{f"no_repeat_ngram_size {value}": {"no_repeat_ngram_size": value} for value in (0, 3)},
}  # fmt: skip

Reply = namedtuple("Reply", "text n_tokens is_stopped")
Reply.__doc__ = "An answer, its length, and whether the model itself ended it."


def read_chats():
    """Return the user's turns of each chat."""
    return [line.split(" | ") for line in lines_of(CHATS.read_text(encoding="utf-8"))]


def read_dialogues(path):
    """Return the turns of each dialogue up to the last answer to the user, which is the true answer."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        dialogues = [json.loads(line)["turns"] for line in file]
    return [turns[: len(turns) // 2 * 2] for turns in dialogues]


def reply_to(conversation, message):
    """Send a message and read the answer to its end."""
    answer = conversation.say(message)
    for _ in answer:
        pass
    return Reply(answer.text, answer.n_tokens, answer.finish_reason == "stop")


def replies_in(model, chats, seed, options):
    """Return the replies of each chat."""
    found = []
    for i, chat in enumerate(chats):
        conversation = Conversation(model, seed=seed * len(chats) + i, **options)
        found.append([reply_to(conversation, message) for message in chat])
    return found


def reply_after(conversation, turns):
    """Return the reply to the last of the user's turns, turns[-2], after all the true ones before it."""
    clean, made = conversation.format.clean, conversation.format.answer
    pairs = zip(turns[:-2:2], turns[1:-2:2], strict=True)
    conversation.reset()
    conversation.turns += [Turn(clean(user), clean(bot), made(clean(bot))) for user, bot in pairs]
    return reply_to(conversation, turns[-2])


def final_replies(model, dialogues, seed, options):
    """Return the reply at the end of each dialogue."""
    seeds = range(seed * len(dialogues), (seed + 1) * len(dialogues))
    return [
        reply_after(Conversation(model, seed=seed, **options), turns)
        for seed, turns in zip(seeds, dialogues, strict=True)
    ]


def n_grams(words, n):
    """Return all n-grams of a list of words, in order."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(texts, n):
    """Return the number of distinct n-grams divided by that of all n-grams of the texts."""
    grams = [gram for text in texts for gram in n_grams(words_of(text).split(), n)]
    return len(set(grams)) / max(1, len(grams))


def f1(answer, expected):
    """Return the harmonic mean of precision and recall of the words of two texts."""
    a, b = (Counter(words_of(text).split()) for text in (answer, expected))
    return 2 * (a & b).total() / (a.total() + b.total() or 1)


def figures(chats):
    """Return the figures of one run, by name. chats: the replies of each chat."""
    replies = [reply for chat in chats for reply in chat]
    found = {f"distinct-{n}": distinct([reply.text for reply in replies], n) for n in (1, 2, 3)}
    n_fours = n_repeated = n_same_in_chat = n_same = 0
    answers = set()
    for chat in chats:
        fours, answers_here = set(), set()
        for reply in chat:
            text = words_of(reply.text)
            for four in n_grams(text.split(), 4):
                n_repeated += four in fours
                n_fours += 1
                fours.add(four)
            n_same_in_chat += text in answers_here
            n_same += text in answers
            answers_here.add(text)
            answers.add(text)
    return found | {
        "repeated 4-grams": n_repeated / max(1, n_fours),
        "same in the chat": n_same_in_chat / len(replies),
        "same at all": n_same / len(replies),
        "stops": sum(reply.is_stopped for reply in replies) / len(replies),
        "tokens": sum(reply.n_tokens for reply in replies) / len(replies),
    }


def measure(model, chats, dialogues, seeds, options):
    """Return {figure: (mean, standard error or None)} over the seeds; greedy decoding needs only one run."""
    runs = []
    for seed in range(seeds if options["temperature"] else 1):
        found = figures(replies_in(model, chats, seed, options))
        if dialogues:
            replies = final_replies(model, dialogues, seed, options)
            found["F1"] = statistics.fmean(
                f1(reply.text, turns[-1]) for reply, turns in zip(replies, dialogues, strict=True)
            )
        runs.append(found)
    return {
        name: (
            statistics.fmean(run[name] for run in runs),
            statistics.stdev(run[name] for run in runs) / math.sqrt(len(runs)) if len(runs) > 1 else None,
        )
        for name in runs[0]
    }


def cell(name, mean, error):
    """Format a figure with its error."""
    if name == "tokens":
        return f"{mean:.1f}" + (f" +- {error:.1f}" if error is not None else "")
    return f"{100 * mean:.1f}%" + (f" +- {100 * error:.1f}" if error is not None else "")


def table(results):
    """Return a Markdown table. results: {variant: result of `measure`}."""
    names = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for variant, found in results.items():
        lines.append(f"| {variant} | " + " | ".join(cell(name, *found[name]) for name in names) + " |")
    return "\n".join(lines)


def write_transcripts(file, model, chats, n):
    """Write n evenly spaced chats, each with the defaults and with greedy decoding."""
    for i in range(0, len(chats), max(1, len(chats) // n)):
        for variant in ("defaults", "greedy, nothing else"):
            [replies] = replies_in(model, [chats[i]], i, CHAT_DEFAULTS | VARIANTS[variant])
            turns = zip(chats[i], replies, strict=True)
            text = "".join(f"User: {message}\nBot: {reply.text}\n" for message, reply in turns)
            file.write(f"=== chat {i + 1}, {variant}\n{text}\n")


@click.command()
@click.argument("model", default=DEMO)
@click.option(
    "--seeds", type=click.IntRange(2), default=10, show_default=True, help="Runs of each variant that samples."
)
@click.option("--chats", "n_chats", type=click.IntRange(1), metavar="N", help="Only the first N chats.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads; 1 is best for small models.")
@click.option(
    "--dialogues", metavar="FILE", help='Add F1 on dialogues: lines {"turns": [text, ...]}, compressed with xz.'
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--transcripts", type=(click.IntRange(1), click.File("w", encoding="utf-8")), metavar="N FILE",
              help="Write N chats to read instead.")  # fmt: skip
def main(model, seeds, n_chats, threads, dialogues, as_json, transcripts):
    """Compare sampling options for the answers of the model file MODEL, or of the bundled model."""
    try:
        opened = gpt2rt.open_model(model, n_threads=threads)
        chats = read_chats()[:n_chats]
        if transcripts:
            write_transcripts(transcripts[1], opened, chats, transcripts[0])
            return
        turns = read_dialogues(dialogues) if dialogues else []
        results = {
            variant: measure(opened, chats, turns, seeds, CHAT_DEFAULTS | options)
            for variant, options in VARIANTS.items()
        }
    except (OSError, Gpt2rtError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(results, indent=1) if as_json else table(results))


if __name__ == "__main__":
    main()
