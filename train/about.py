"""Dialogues about the bundled model itself and of small talk, made of the wordings in about.txt."""

import pathlib
import random
import re

N_DIALOGUES = 8000
SOURCE = pathlib.Path(__file__).with_name("about.txt")
NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
# How often a dialogue's next exchange is of a section.
SHARES = {"self": 36, "talk": 40, "joke": 5, "story": 3, "fact": 7, "sum": 4, "memory": 12}
REST = None  # the turn of other exchanges


def read(text):
    """The lists {name: values} and the sections {name: exchanges} of about.txt.

    An exchange is a list of turns, each a list of wordings, or REST.
    """
    lists, sections = {}, {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        if not lines or (lines[0].startswith("# ") and len(lines) > 1 and lines[1].startswith("#")):
            continue
        if lines[0].startswith("= "):
            lists[lines[0][2:]] = lines[1:]
        elif lines[0].startswith("# "):
            exchanges = sections[lines[0][2:]] = []
        elif lines[0].startswith("User: "):
            turns = [line if line == "*" else line.split(": ", 1)[1] for line in lines]
            exchanges.append([REST if turn == "*" else turn.split(" | ") for turn in turns])
        else:
            for line in lines:
                name, values = line.split(" = ")
                lists[name] = values.split(", ")
    return lists, sections


class Talk:
    """Makes dialogues, by a random generator."""

    def __init__(self, generator):
        self.random = generator
        self.lists, self.sections = read(SOURCE.read_text(encoding="utf-8"))

    def dialogue(self):
        """The turns of one; those of the user come first."""
        turns, used = [], []
        if self.random.random() < 0.55:
            turns += self._exchange(self.random.choice(self.sections["greeting"]), used)
        for _ in range(self.random.randint(1, 5)):
            turns += self._exchange(self._next(used), used)
        if self.random.random() < 0.25:
            turns += self._exchange(self.random.choice(self.sections["goodbye"]), used)
        return [sloppy(turn, self.random) if i % 2 == 0 else turn for i, turn in enumerate(turns)]

    def _next(self, used, names=tuple(SHARES)):
        """An exchange that isn't among `used` yet, of one of the sections `names`."""
        while True:
            name = self.random.choices(names, [SHARES[name] for name in names])[0]
            exchange = self.random.choice(self.sections[name])
            if not any(exchange is other for other in used):
                return exchange

    def _exchange(self, exchange, used):
        """The turns of an exchange, which joins `used`."""
        used.append(exchange)
        slots, turns = self._slots(), []
        for wordings in exchange:
            if wordings is REST:
                for _ in range(self.random.randint(0, 2)):
                    turns += self._exchange(self._next(used, ("self", "talk")), used)
            else:
                turns.append(finished(self.random.choice(wordings).format_map(slots)))
        return turns

    def _slots(self):
        """A value for each {name}."""
        slots = {name: self.random.choice(values) for name, values in self.lists.items()}
        slots["joke2"] = self.random.choice([joke for joke in self.lists["joke"] if joke != slots["joke"]])
        slots["question"], slots["answer"] = slots["fact"].split(" | ")
        n = NUMBERS.index(slots["number"])
        slots["counted"] = ", ".join(NUMBERS[1 : n + 1])
        total = self.random.randint(0, 20)
        a = self.random.randint(0, total)
        if self.random.random() < 0.5:
            slots["sum"], slots["total"] = self._words(a, "plus", "+", total - a), NUMBERS[total]
        else:
            slots["sum"], slots["total"] = self._words(total, "minus", "-", a), NUMBERS[total - a]
        return slots

    def _words(self, a, name, sign, b):
        """`two plus three`, or `2 + 3`."""
        return f"{NUMBERS[a]} {name} {NUMBERS[b]}" if self.random.random() < 0.6 else f"{a} {sign} {b}"


def capitalized(text):
    """With capitals where sentences begin."""
    return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda match: match[0].upper(), text)


def finished(text):
    """With capitals where sentences begin, and `an` where a vowel follows."""
    return capitalized(re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text))


def sloppy(text, generator):
    """As some people type: now and then without capitals, apostrophes or a full stop."""
    if generator.random() < 0.2:
        text = text.lower()
        if generator.random() < 0.3:
            text = text.replace("'", "")
    if generator.random() < 0.2:
        text = text.rstrip(".!?") or text
    return text


def dialogues():
    """N_DIALOGUES lists of turns, the same at each call."""
    talk = Talk(random.Random(0))
    return (talk.dialogue() for _ in range(N_DIALOGUES))


if __name__ == "__main__":
    for turns in list(dialogues())[:20]:
        print("\n".join(turns), end="\n\n")
