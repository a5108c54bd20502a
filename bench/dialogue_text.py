"""Dialogues as the text that a chat model is trained on, to standard output.

    python bench/dialogue_text.py FILE.jsonl.xz > dialogues.txt
    python bench/dialogue_text.py --first 60 *.jsonl.xz > mixture.txt

A line is a JSON object with `turns`, the user's first. Dialogues are parted by <|endoftext|>; --first takes so many of
each file, in turns.
"""

import argparse
import contextlib
import itertools
import json
import lzma
import sys


def dialogue_text(files, first=None):
    """The text of the dialogues of files of lines."""
    documents = []
    for lines in itertools.zip_longest(*(itertools.islice(file, first) for file in files)):
        for line in filter(None, lines):
            turns = json.loads(line)["turns"]
            documents.append("".join(f"{('User', 'Bot')[i % 2]}: {turn}\n" for i, turn in enumerate(turns)))
    return "<|endoftext|>".join(documents)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--first", type=int, metavar="N")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(lzma.open(path, "rt", encoding="utf-8")) for path in options.files]
        sys.stdout.buffer.write(dialogue_text(files, options.first).encode())
