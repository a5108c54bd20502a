"""Dialogues that teach the bundled model who it is and to take up what is said, made of the files in wordings/.

A wordings file has blocks, separated by empty lines:

`name = a, b`: lists what a {name} may be, the same in all of an exchange; so does a block `= name`, one value per line.
A value with columns `a | b` is read as {name[0]} and {name[1]}.
`# name`: begins a section of exchanges. Each is a block of `User: ` and `Bot: ` lines, whose wordings are separated by
` | `. A `*` stands for other exchanges in between. Any other line with `# ` is a comment.

{name2} is another value of the list, {name2b} another one with the same {names} inside, {name_you} the value as the
other person says it (my becomes your). <name> is a value that is chosen anew each time.
"""

import itertools
import pathlib
import random
import re

import facts

N_DIALOGUES = 100000
SOURCES = sorted(pathlib.Path(__file__).with_name("wordings").glob("*.txt"))
# How often a dialogue's next exchange is from a section.
SHARES = {
    **{"self": 18, "talk": 40, "comfort": 9, "kind": 5, "limits": 5, "memory": 9},
    **{"joke": 3, "story": 2, "change": 7, "fact": 8, "sum": 11, "count": 2},
}
BETWEEN = ("self", "talk", "fact", "joke", "change")  # sections of the exchanges that a * stands for
REST = None  # the turn of other exchanges
OTHER_PERSON = {
    **{"my": "your", "me": "you", "I": "you", "I'm": "you're", "am": "are", "mine": "yours", "myself": "yourself"},
    **{"our": "your", "we": "you"},
}


def read(text, lists, sections):
    """Add to the lists {name: values} and the sections {name: exchanges} those of a wordings file.

    An exchange is a list of turns, each a list of wordings, or REST.
    """
    exchanges = None
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        if not lines or (lines[0].startswith("# ") and lines[0][2:] not in SHARES | {"greeting": 0, "goodbye": 0}):
            continue
        if lines[0].startswith("= "):
            lists[lines[0][2:]] = [tuple(line.split(" | ")) if " | " in line else line for line in lines[1:]]
        elif lines[0].startswith("# "):
            exchanges = sections.setdefault(lines[0][2:], [])
        elif lines[0].startswith("User: "):
            turns = [line if line == "*" else line.split(": ", 1)[1] for line in lines]
            exchanges.append([REST if turn == "*" else turn.split(" | ") for turn in turns])
        else:
            for line in lines:
                name, values = line.split(" = ")
                lists[name] = values.split(", ")


class Slots(dict):
    """What each {name} of an exchange stands for, chosen when it is first asked for."""

    def __init__(self, lists, generator):
        super().__init__()
        self.lists, self.random = lists, generator

    def __missing__(self, key):
        if key.endswith("_you"):
            value = flipped(self[key.removesuffix("_you")])
        else:
            name = key.removesuffix("b").removesuffix("2") if key not in self.lists else key
            values = self.lists[name]
            if name != key:
                values = [value for value in values if value != self.raw(name)]
            self[f"raw {key}"] = row = self.random.choice(values)
            inner = "2" if key.endswith("2") and name != key else ""
            value = self.filled(row, inner) if isinstance(row, str) else [self.filled(text, inner) for text in row]
        self[key] = value
        return value

    def raw(self, name):
        """The value of {name} before its own slots are filled."""
        self[name]
        return self[f"raw {name}"]

    def filled(self, text, inner=""):
        """The text with its slots filled; with `inner` "2", those that its own slots have are other ones as well."""
        if inner:
            text = re.sub(r"\{(\w+)\}", rf"{{\g<1>{inner}}}", text)
        text = re.sub(r"<(\w+)>", lambda match: self.random.choice(self.lists[match[1]]), text)
        return text.format_map(self)


class Talk:
    """Makes dialogues, by a random generator."""

    def __init__(self, generator):
        self.random = generator
        self.lists, self.sections = {}, {}
        for source in SOURCES:
            read(source.read_text(encoding="utf-8"), self.lists, self.sections)
        self.sections |= facts.MAKERS

    def dialogue(self):
        """Return the turns of one; those of the user come first."""
        turns, used = [], []
        if self.random.random() < 0.5:
            turns += self._exchange(self.random.choice(self.sections["greeting"]), used)
        for _ in range(self.random.choice((1, 1, 2, 2, 3, 4, 5))):
            turns += self._exchange(self._next(used), used)
        if self.random.random() < 0.15:
            turns += self._exchange(self.random.choice(self.sections["goodbye"]), used)
        return [sloppy(turn, self.random) if i % 2 == 0 else turn for i, turn in enumerate(turns)]

    def _next(self, used, names=tuple(SHARES)):
        """Return an exchange that isn't among `used` yet, from one of the sections `names`."""
        while True:
            name = self.random.choices(names, [SHARES[name] for name in names])[0]
            exchange = self.random.choice(self.sections[name])
            if callable(exchange) or not any(exchange is other for other in used):
                return exchange

    def _exchange(self, exchange, used):
        """Return the turns of an exchange, which joins `used`."""
        used.append(exchange)
        if callable(exchange):
            return [finished(turn) for turn in exchange(self.random)]
        slots, turns = Slots(self.lists, self.random), []
        for i, wordings in enumerate(exchange):
            if wordings is REST:
                for _ in range(self.random.choice((0, 0, 1, 1, 2, 3, 4, 5))):
                    turns += self._exchange(self._next(used, BETWEEN), used)
            elif len(turns) >= 4 and i and i % 2 == 0 and REST not in exchange and self.random.random() < 0.1:
                break  # people don't always go on
            else:
                turns.append(finished(slots.filled(self.random.choice(wordings))))
        return turns


def flipped(text):
    """Return the text as the other person says it."""
    return " ".join(OTHER_PERSON.get(word, word) for word in text.split(" "))


def capitalized(text):
    """Return the text with capitals where sentences begin; names such as iPhone stay as they are."""
    return re.sub(r"(?:^|(?<=[^.][.!?] ))[a-z](?![A-Z])", lambda match: match[0].upper(), text)


def finished(text):
    """Return the text with capitals where sentences begin, `an` before vowels, and one mark at the end."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return capitalized(re.sub(r"([.!?])[.](?=\s|$)", r"\1", text))


def sloppy(text, generator, share=0.2):
    """Return the text as some people type it: a `share` of the time without capitals or without a mark at its end, and
    sometimes all in capitals.
    """
    if generator.random() < share / 10:
        return text.upper()
    if generator.random() < share:
        text = text.lower()
        if generator.random() < 0.3:
            text = text.replace("'", "")
    if generator.random() < share:
        text = text.rstrip(".!?") or text
    return text


def dialogues():
    """Return an iterator of N_DIALOGUES lists of turns, the same at each call."""
    talk = Talk(random.Random(0))
    return (talk.dialogue() for _ in range(N_DIALOGUES))


if __name__ == "__main__":
    for turns in itertools.islice(dialogues(), 30):
        print("\n".join(turns), end="\n\n")
