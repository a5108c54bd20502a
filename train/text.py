"""The text that the bundled model learns from: groups of documents, read from files of dialogues and of prose.

    python train/text.py FILE.jsonl.xz > dialogues.txt              # dialogues as a model reads them
    python train/text.py --first 60 --about *.jsonl.xz > mixture.txt   # some of each file and of about.py

A file of dialogues, *.jsonl.xz, has one a line, {"turns": [...]}, turns alternating. A file of prose, *.txt.xz, has
documents parted by a line `<|endoftext|>`, paragraphs by an empty line.
"""

import argparse
import itertools
import json
import lzma
import re
import sys

from about import capitalized
from about import dialogues as about_dialogues
from gpt2rt.converter.vocabulary import END_OF_TEXT

SPEAKERS = ("User", "Bot")

# {group: files}; docs/demo-model.md has their sources and licences. `about` is made by about.py.
GROUPS = {
    "prose": [
        "prose/gutenberg_children_simple.txt.xz",
        "prose/fairytaleqa.txt.xz",
        "prose/storybooks_asp_pb.txt.xz",
        "prose/aesop.txt.xz",
        "prose/tatoeba_sentences.txt.xz",
    ],
    "fiction": ["dialogues/gutenberg_dialogue_children.jsonl.xz"],
    "stories": ["dialogues/fairytaleqa.jsonl.xz"],
    "tasks": [
        "dialogues/camrest676.jsonl.xz",
        "dialogues/multiwoz_valtest.jsonl.xz",
        "dialogues/star.jsonl.xz",
        "dialogues/taskmaster3_movies.jsonl.xz",
        "dialogues/taskmaster4.jsonl.xz",
        "dialogues/woz2.jsonl.xz",
    ],
    "talk": ["dialogues/self_dialogue.jsonl.xz"],
    "persona": ["dialogues/synthetic_persona_chat.jsonl.xz"],
    "bargains": ["dialogues/casino.jsonl.xz"],
    "answers": [
        "dialogues/raschka_instr.jsonl.xz",
        "dialogues/oasst_samples.jsonl.xz",
        "dialogues/chatterbot.jsonl.xz",
    ],
    "quips": ["dialogues/ms_chitchat_friendly.jsonl.xz"],
    "about": [],
}
PLAIN = str.maketrans("‘’“”", "''\"\"")  # as most people type


def dialogue(turns):
    """The document of a dialogue: `User: ...` and `Bot: ...` lines."""
    return "".join(f"{SPEAKERS[i % 2]}: {' '.join(turn.split())}\n" for i, turn in enumerate(turns))


def mend(turn):
    """A turn with plain quotation marks, and with capitals where it was typed without any."""
    turn = turn.translate(PLAIN)
    if turn != turn.lower():
        return turn
    return capitalized(re.sub(r"\bi\b(?!\.)", "I", turn))


def dialogues(path, change=str, source=None):
    """The documents of a file of dialogues, or of those of one source; `change` is made to each turn."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            if source in (None, line.get("source")):
                yield dialogue([change(turn) for turn in line["turns"]])


def documents(folder, group):
    """The documents of a group, in the order of its files.

    Args:
        folder: a pathlib.Path, the folder of `prose` and `dialogues`. group: a key of GROUPS.
    """
    if group == "about":
        yield from map(dialogue, about_dialogues())
    for name in GROUPS[group]:
        if name.endswith(".jsonl.xz"):
            yield from dialogues(folder / name, mend)
        else:
            with lzma.open(folder / name, "rt", encoding="utf-8") as file:
                yield from (document.strip() + "\n" for document in file.read().split(f"{END_OF_TEXT}\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--first", type=int, metavar="N", help="so many of each file, in turns")
    parser.add_argument("--source", metavar="NAME", help="dialogues of this source alone")
    parser.add_argument("--about", action="store_true", help="dialogues of about.py as well")
    options = parser.parse_args()
    sources = [dialogues(path, source=options.source) for path in options.files]
    if options.about:
        sources.append(map(dialogue, about_dialogues()))
    turns = itertools.zip_longest(*(itertools.islice(source, options.first) for source in sources))
    sys.stdout.buffer.write(END_OF_TEXT.join(filter(None, itertools.chain.from_iterable(turns))).encode())


if __name__ == "__main__":
    main()
