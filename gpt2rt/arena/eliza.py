"""ELIZA: Weizenbaum's program of 1966, which answers by the rules of a script.

J. Weizenbaum, "ELIZA: a computer program for the study of natural language communication between man and machine",
CACM 9(1), 1966. What the article leaves open follows the program's listing, which was found in 2021: the delimiter
BUT, the count of answers that decides when a memory is recalled, and the hash that chooses how one is stored.

Nothing is random: the same messages in the same order get the same answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from gpt2rt.arena.eliza_script import NONE, Choice, Part, Rule, Script
from gpt2rt.messages import turns_of

__all__ = ["Eliza", "Script", "Sentence", "answer_to", "sentence_case", "slip_hash", "words_of"]

DELIMITERS = {",", ".", "BUT"}
N_LIMITS = 4  # LIMIT counts answers from 1 to this and starts again; a memory is recalled only at the last one
UNMATCHED = ("PLEASE CONTINUE", "HMMM", "GO ON , PLEASE", "I SEE")  # by LIMIT, where the script has no answer
MAX_WORK = 300_000  # for one answer, since a script may link in circles: words rewritten, and RULE_WORK for each rule
RULE_WORK = 100

# The codes of the IBM 7094's characters, 6 bits each; codes marked ? are unused.
BCD = "0123456789?='???+ABCDEFGHI?.)???-JKLMNOPQR?$*??? /STUVWXYZ?,(???"
CODES = {ord(c): code for code, c in enumerate(BCD) if c != "?"}
BLANK = CODES[ord(" ")]
CELL = 6  # characters of a machine word

# What a message may say that the 7094 could not: marks that end a clause become its delimiters, the rest blanks.
REPLACED = {ord(c): by for by, marks in {".": "?!;:…", ",": "–—", "'": "‘’´`"}.items() for c in marks}
KEPT = {chr(c) for c in CODES} - set("()=")


def words_of(message: str) -> list[str]:
    """Return the words of a message in capitals without accents; periods and commas are words of their own."""
    kept = (c if c in KEPT else _without_accents(c) for c in message.translate(REPLACED).upper())
    words = "".join(kept).replace(",", " , ").replace(".", " . ").split()
    return [bare for word in words if (bare := word.strip("'"))]


def _without_accents(character: str) -> str:
    # One by one, since normalizing a text with a long run of accents takes quadratic time.
    parts = unicodedata.normalize("NFKD", character).upper()
    return "".join(c if c in KEPT else "" if unicodedata.combining(c) else " " for c in parts)


def slip_hash(datum: int, n_bits: int) -> int:
    """Return the middle bits of a machine word's square, as HASH of the list language SLIP.

    Args:
        datum: 36 bits; the first is a sign, which is ignored.
        n_bits: from 0 to 15.
    """
    magnitude = datum & (1 << 35) - 1
    return (magnitude * magnitude >> (35 - n_bits // 2)) & (1 << n_bits) - 1


def last_cell(word: str) -> int:
    """Return the last machine word of a word in storage: up to six characters, padded with blanks."""
    characters = word[(len(word) - 1) // CELL * CELL :]
    datum = 0
    for character in characters.ljust(CELL):
        datum = datum << 6 | CODES.get(ord(character), BLANK)
    return datum


class Sentence:
    """Words, and where the parts of patterns are among them.

    A set of positions is an integer, bit i for position i, so that a match takes time in proportion to the number of
    words times the number of parts: trying the lengths of several zeros one by one would take exponential time.
    """

    def __init__(self, words: Sequence[str], tags: Mapping[str, set[str]] | None = None) -> None:
        self.words = words
        self._tags = tags or {}
        self._positions: dict[str | Choice, int] = {}

    def _where(self, part: str | Choice) -> int:
        """Return the set of positions of words that the part matches."""
        if part not in self._positions:
            if isinstance(part, str):
                wanted = {part}
            elif part.kind == "*":
                wanted = set(part.names)
            else:
                wanted = {word for tag in part.names for word in self._tags.get(tag, ())}
            bits = "".join("1" if word in wanted else "0" for word in reversed(self.words))
            self._positions[part] = int(bits or "0", 2)
        return self._positions[part]

    def match(self, pattern: Sequence[Part]) -> list[Sequence[str]] | None:
        """Return the words of each part of a pattern, or None; each 0 is as short as the rest allows, left to right."""
        # From the end: the positions where the rest of the pattern, from each part on, matches the rest of the words.
        fits = [1 << len(self.words)]
        for part in reversed(pattern):
            after = fits[-1]
            if part == 0:
                fits.append((1 << after.bit_length()) - 1)
            elif isinstance(part, int):
                fits.append(after >> part)
            else:
                fits.append(after >> 1 & self._where(part))
        if not fits.pop() & 1:
            return None
        # From the start: the nearest of these positions is where a part ends.
        parts: list[Sequence[str]] = []
        start = 0
        for part in pattern:
            after = fits.pop() >> start
            length = (after & -after).bit_length() - 1 if part == 0 else part if isinstance(part, int) else 1
            parts.append(self.words[start : start + length])
            start += length
        return parts


class Eliza:
    """A conversation: `answer` takes one message after the other.

    Attributes:
        script: the rules.
        words: the sentence as the last answer's rules left it.
        memories: sentences to fall back on, oldest first.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.words: Sequence[str] = ()
        self.memories: deque[str] = deque()
        self._limit = 1
        self._n_uses: Counter[tuple[str, int]] = Counter()  # of a rule's transformations: their reassemblies take turns

    def answer(self, message: str) -> str:
        """Return the answer to a message, in capitals."""
        self._limit = self._limit % N_LIMITS + 1
        keys = self._read(message)
        if not keys and self._limit == N_LIMITS and self.memories:
            return self.memories.popleft()
        return self._transform(keys) or UNMATCHED[self._limit - 1]

    def _read(self, message: str) -> deque[str]:
        """Set `words` to the first clause with a keyword, and return its keywords, most important first."""
        rules = self.script.rules
        keys: deque[str] = deque()
        words: list[str] = []
        highest = 0
        for word in words_of(message):
            if word in DELIMITERS:
                if keys:
                    break
                words.clear()
                continue
            rule = rules.get(word) if word != NONE else None
            if rule and rule.is_key:
                if rule.precedence > highest:
                    highest = rule.precedence
                    keys.appendleft(word)
                else:
                    keys.append(word)
            words.append(rule.substitute or word if rule else word)
        self.words = words
        return keys

    def _transform(self, keys: deque[str]) -> str:
        """Apply the rules of keywords until one of them answers; return "" if none does."""
        script = self.script
        sentence = Sentence(self.words, script.tags)
        work = 0
        while work <= MAX_WORK:
            key = keys.popleft() if keys else NONE
            work += RULE_WORK + len(sentence.words) // 64
            self._remember(key, sentence)
            rule = script.rules[key]
            found = self._matching(rule, sentence)
            if found is None:
                if rule.link is None:
                    return ""
                keys.appendleft(rule.link)
                continue
            i, parts = found
            reassemblies = rule.transformations[i].reassemblies
            reassembly = reassemblies[self._n_uses[key, i] % len(reassemblies)]
            self._n_uses[key, i] += 1
            if reassembly.words is not None:
                self.words = assembled(reassembly.words, parts)
                if reassembly.link is None:
                    return " ".join(self.words)
                sentence = Sentence(self.words, script.tags)
                work += len(self.words)
            if reassembly.link is not None:
                keys.appendleft(reassembly.link)
            elif key == NONE and not keys:
                return ""
        return ""

    def _remember(self, key: str, sentence: Sentence) -> None:
        """Store a sentence with the keyword of MEMORY; its last word chooses the transformation."""
        memory = self.script.memory
        if memory and key == memory.keyword and sentence.words:
            chosen = memory.transformations[slip_hash(last_cell(sentence.words[-1]), 2)]
            if (parts := sentence.match(chosen.pattern)) is not None:
                self.memories.append(" ".join(assembled(chosen.reassemblies[0].words or (), parts)))

    @staticmethod
    def _matching(rule: Rule, sentence: Sentence) -> tuple[int, list[Sequence[str]]] | None:
        """Return the first transformation that matches, as its index, and the parts."""
        for i, transformation in enumerate(rule.transformations):
            if (parts := sentence.match(transformation.pattern)) is not None:
                return i, parts
        return None


def assembled(words: Iterable[int | str], parts: Sequence[Sequence[str]]) -> list[str]:
    """Return the words of a reassembly with the parts it names."""
    return [found for word in words for found in (parts[word - 1] if isinstance(word, int) else (word,))]


def answer_to(script: Script, messages: Sequence[Mapping[str, str]]) -> str:
    """Answer the last message of a conversation.

    Args:
        script: the rules.
        messages: as for `Model.chat`. Only the user's matter: ELIZA's own answers follow from them.

    Raises:
        UsageError: the order of the messages is invalid.
    """
    _, talk = turns_of(messages)
    eliza = Eliza(script)
    return [eliza.answer(content) for content in talk[::2]][-1]


# --- answers as a person would write them


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SUBJECTS = _set("I YOU WE THEY HE SHE IT THIS THAT THESE THOSE THERE MY YOUR THE A AN ANY OTHERS PEOPLE")
PRONOUNS = _set("I YOU WE THEY HE SHE IT")
ASKING = _set("WHO WHOM WHOSE WHAT WHEN WHERE WHY WHICH HOW WHO'S WHAT'S WHEN'S WHERE'S HOW'S")
VERBS = _set("DO DOES DID IS ARE AM WAS WERE HAVE HAS HAD CAN COULD WILL WOULD SHOULD SHALL MAY MIGHT")
VERBS |= {"CAN'T", "WON'T", "SHAN'T", *(f"{verb}N'T" for verb in VERBS)}
ORDERS = {"DO", "DON'T", "HAVE"}  # verbs that also begin an order: do tell me, don't worry, have fun
MEASURES = _set("LONG MANY MUCH OFTEN OLD FAR BIG SOON COME SO ABOUT ELSE")  # how long, but: how nice
PREPOSITIONS = _set("IN OF TO FROM FOR WITH ON AT BY ABOUT SINCE UNTIL")
OPENERS = _set("AND BUT OR THEN WELL OH NOW")
SPELLED = {word.upper(): word for word in _set("I AI ELIZA English OK TV UK USA Christmas")}
SPELLED |= {f"{day.upper()}DAY": f"{day}day" for day in _set("Mon Tues Wednes Thurs Fri Satur Sun")}


def sentence_case(text: str, heard: str = "") -> str:
    """Return an answer as a person would write it: "IN WHAT WAY" becomes "In what way?".

    Args:
        text: in capitals.
        heard: the message it answers; names in it keep their spelling.
    """
    names = {name.upper(): name for name in _names_in(heard)} | SPELLED

    def spelled(found: re.Match[str]) -> str:
        name, apostrophe, rest = found[0].partition("'")
        return names.get(name, name.lower()) + apostrophe + rest.lower()

    sentences = []
    for found in re.finditer(r"\S[^.?!]*[.?!]*", re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split()))):
        body = found[0].rstrip(".?! ")
        mark = found[0][len(body) :].strip() or "."
        written = re.sub(r"\w[\w']*", spelled, body.upper())
        first = re.search(r"\w", written)
        if first:
            written = written[: first.start()] + written[first.start() :][:1].upper() + written[first.end() :]
            mark = "?" if mark == "." and is_question(body) else mark
        sentences.append(written + mark)
    return " ".join(sentences)


def _names_in(heard: str) -> set[str]:
    """Return the words with a capital that don't begin a sentence."""
    plain = heard.replace("’", "'")
    if plain.isupper():
        return set()
    return {name for name in re.findall(r"(?<![.?!…])\s[\"(]?([^\W\d_]+)", plain) if name[0].isupper() and name != "I"}


def is_question(sentence: str) -> bool:
    """Whether a sentence in capitals, or a clause of it, begins or ends as a question does."""
    clauses = [words for part in re.split(r",| -+ ", sentence.upper()) if (words := part.split())]
    if not clauses:
        return False
    last = clauses[-1]
    ends_as_one = len(last) > 1 and last[-2].endswith("N'T") and last[-1] in PRONOUNS
    return ends_as_one or any(_asks(words, is_first=i == 0) for i, words in enumerate(clauses))


def _asks(words: list[str], is_first: bool) -> bool:
    """Whether a clause begins as a question does; later clauses may be relative: a dream, which was strange."""
    if words[0] == "AND" and len(words) == 2 and words[1] in PRONOUNS:
        return True
    if words[0] in OPENERS or (words[0] == "SO" and words[1:2] and words[1] in ASKING):
        words = words[1:] or [""]
    first, second = words[0], words[1] if words[1:] else ""
    if first in VERBS:
        return first not in ORDERS or second in SUBJECTS or second.endswith("S")
    if first in PREPOSITIONS:
        return is_first and second in ASKING and second != "WHO"
    if first not in ASKING or second in PRONOUNS or (first == "WHAT" and second in {"A", "AN"}):
        return False
    has_verb = "'" in first or not VERBS.isdisjoint(words[1:4])
    if not is_first:
        return has_verb and first not in {"WHO", "WHICH", "WHOSE", "WHOM"}
    return has_verb or first != "HOW" or not second or second in MEASURES
