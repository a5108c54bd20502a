"""The text that the bundled model learns from: groups of documents, read from files of dialogues and of prose.

    python train/text.py FILE.jsonl.xz > dialogues.txt                 # dialogues as a model reads them
    python train/text.py --first 60 --about *.jsonl.xz > mixture.txt   # some of each file and of about.py

A file of dialogues, *.jsonl.xz, has one per line, {"turns": [...]}, turns alternating. A file of prose, *.txt.xz, has
documents separated by a line `<|endoftext|>` and paragraphs separated by an empty line.
"""

import argparse
import itertools
import json
import lzma
import random
import re
import sys

from about import capitalized, sloppy
from about import dialogues as about_dialogues
from gpt2rt.converter.vocabulary import END_OF_TEXT

SPEAKERS = ("User", "Bot")
SLOPPY = 0.1  # the fraction of dialogues whose user types carelessly

# {group: files}; docs/demo-model.md lists their sources and licenses. `about` is made by about.py.
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
PLACEHOLDER = re.compile(
    r"_{2,}|\b[Uu]ser ?[12]\b"
    r"|[\[{<(](?:your|my|the|a|user|bot|person|insert|first|last)?[ _']*(?:user|bot|person)?[ _']*"
    r"(?:name|city|age|date|number)s?[\]}>)]",
    re.IGNORECASE,
)
NEGATED = ("do", "did", "does", "is", "was", "are", "have", "has", "had", "could", "would", "should")
# Typed without an apostrophe; words that mean something else without it (well, its, were) are left alone.
CONTRACTIONS = {
    **{f"{word}nt": f"{word}n't" for word in NEGATED},
    **{"wont": "won't", "cant": "can't", "im": "I'm", "ive": "I've", "youre": "you're", "youve": "you've"},
    **{"theyre": "they're", "theyve": "they've", "weve": "we've", "thats": "that's", "whats": "what's"},
    **{"hes": "he's", "shes": "she's", "theres": "there's", "wheres": "where's", "whos": "who's", "hows": "how's"},
}
CONTRACTION = re.compile(rf"\b(?:{'|'.join(CONTRACTIONS)})\b", re.IGNORECASE)
AUXILIARY = r"(?:am|are|is|was|were|do|does|did|have|has|had|can|could|will|would|shall|should|may|might)(?:n't)?"
QUESTION = re.compile(
    rf"(?:(?:and|but|so|or|ok|okay|well|oh|hey|hi),? )*"
    rf"(?:(?:who|what|when|where|why|how|which|whose)(?:'s|'re)?(?: \w+){{0,2}} {AUXILIARY}\b"
    rf"|(?:who|what|where|how)'s\b|(?:what|how) about\b|why not\b"
    rf"|{AUXILIARY} (?:i|you|he|she|it|we|they|the|there|this|that|your|my|any\w*|some\w*|people)\b)",
    re.IGNORECASE,
)


def dialogue(turns):
    """Return the document of a dialogue: `User: ...` and `Bot: ...` lines."""
    return "".join(f"{SPEAKERS[i % 2]}: {' '.join(turn.split())}\n" for i, turn in enumerate(turns))


def mend(turn):
    """Return a turn with plain quotation marks, capitals where sentences begin, apostrophes, and a mark at its end."""
    turn = re.sub(r" +([,.!?])(?=\s|$)", r"\1", " ".join(turn.translate(PLAIN).split()))
    turn = CONTRACTION.sub(lambda match: _as_typed(match[0], CONTRACTIONS[match[0].lower()]), turn)
    turn = capitalized(re.sub(r"\bi\b(?![.-])(?!\w)", "I", turn))
    if turn[-1:].isalnum():
        sentence = re.split(r"[.!?] ", turn)[-1]
        turn += "?" if any(map(QUESTION.match, (sentence, sentence.split(", ")[-1]))) else "."
    return turn


def _as_typed(word, contraction):
    """Return the contraction with the capitals of the word that was typed."""
    if word.isupper() and len(word) > 2:
        return contraction.upper()
    return contraction[0].upper() + contraction[1:] if word[0].isupper() else contraction


def clean(turns):
    """Return the mended turns of a dialogue; None if it has a placeholder such as `[name]`."""
    if any(map(PLACEHOLDER.search, turns)):
        return None
    return [mend(turn) for turn in turns]


def dialogues(path, change=list, source=None):
    """Yield the documents of a file of dialogues.

    Args:
        path: the file. change: makes of a list of turns the one to read, or None to leave the dialogue out.
        source: read only dialogues from this source.
    """
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            if source in (None, line.get("source")) and (turns := change(line["turns"])):
                yield dialogue(turns)


def documents(folder, group):
    """Yield the documents of a group, in the order of its files; the same at each call.

    Args:
        folder: a pathlib.Path, the folder of `prose` and `dialogues`. group: a key of GROUPS.
    """
    generator = random.Random(group)

    def change(turns):
        turns = clean(turns)
        if turns and generator.random() < SLOPPY:
            turns = [turn if i % 2 else sloppy(turn, generator, 0.7) for i, turn in enumerate(turns)]
        return turns

    if group == "about":
        yield from map(dialogue, about_dialogues())
    for name in GROUPS[group]:
        if name.endswith(".jsonl.xz"):
            yield from dialogues(folder / name, change)
        else:
            with lzma.open(folder / name, "rt", encoding="utf-8") as file:
                yield from (document.strip() + "\n" for document in file.read().split(f"{END_OF_TEXT}\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--first", type=int, metavar="N", help="read only the first N dialogues of each file")
    parser.add_argument("--source", metavar="NAME", help="read only dialogues from this source")
    parser.add_argument("--about", action="store_true", help="add dialogues of about.py")
    parser.add_argument("--clean", action="store_true", help="mend the turns, as for training")
    options = parser.parse_args()
    change = clean if options.clean else list
    sources = [dialogues(path, change, options.source) for path in options.files]
    if options.about:
        sources.append(map(dialogue, about_dialogues()))
    turns = itertools.zip_longest(*(itertools.islice(source, options.first) for source in sources))
    sys.stdout.buffer.write(END_OF_TEXT.join(filter(None, itertools.chain.from_iterable(turns))).encode())


if __name__ == "__main__":
    main()
