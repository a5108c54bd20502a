"""The scripts of ELIZA, in their language of 1966: lists in parentheses, and comments after a semicolon.

(HELLO, HOW ARE YOU)                          the opening
START
(ME = YOU)                                    a word to replace
(MY = YOUR 2                                  a keyword, its replacement and its precedence
    ((0 YOUR (/FAMILY) 0)                     a decomposition: 0 is any number of words, 3 is three of them
        (TELL ME MORE ABOUT YOUR 3)           its reassemblies, taken in turn; 3 is what its third part matched
        (=FAMILY)                             go to another keyword's rule
        (PRE (4 OF YOUR 3) (=FAMILY))         rewrite the sentence first
        (NEWKEY))                             go to the next keyword of the sentence
    (=YOUR))                                  where no decomposition matches
(MOTHER DLIST(/FAMILY))                       a tag, for parts like (/FAMILY); (*A B) is one of the words A and B
(MEMORY MY (0 YOUR 1 0 = WHAT ABOUT YOUR 3)   four sentences to fall back on later
    ...)
(NONE ((0) (PLEASE GO ON)))                   the rule for a sentence without a keyword
()                                            the end
"""

from __future__ import annotations

import pathlib
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from gpt2rt.errors import UsageError

NONE = "NONE"
MAX_NUMBER = 999  # in a script
MAX_DEPTH = 8  # of lists in lists; the language needs half of it


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of a pattern that is one word: (*A B), one of these words, or (/A B), a word with one of these tags."""

    kind: str  # "*" or "/"
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"({self.kind}{' '.join(self.names)})"


Part: TypeAlias = int | str | Choice  # 0: any number of words; n: n words; a word; one of several


@dataclass(frozen=True, slots=True)
class Reassembly:
    """What is done after a match: words alone are an answer, a link alone is (=X), both are PRE, none is NEWKEY."""

    words: tuple[int | str, ...] | None  # a number stands for what that part matched, counted from 1
    link: str | None = None

    def __str__(self) -> str:
        if self.words is None:
            return "(NEWKEY)" if self.link is None else f"(={self.link})"
        words = f"({_joined(self.words)})"
        return words if self.link is None else f"(PRE {words} (={self.link}))"


@dataclass(frozen=True, slots=True)
class Transformation:
    """A decomposition and its reassemblies."""

    pattern: tuple[Part, ...]
    reassemblies: tuple[Reassembly, ...]

    def __str__(self) -> str:
        return "\n        ".join([f"(({_joined(self.pattern)})", *map(str, self.reassemblies)]) + ")"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a script says about a word."""

    keyword: str
    substitute: str | None = None
    precedence: int = 0
    tags: tuple[str, ...] = ()
    transformations: tuple[Transformation, ...] = ()
    link: str | None = None  # where no transformation matches

    @property
    def is_key(self) -> bool:
        """Whether the rule can answer; others only replace or tag their word."""
        return bool(self.transformations or self.link)

    def __str__(self) -> str:
        head = self.keyword
        head += f" = {self.substitute}" if self.substitute else ""
        head += f" {self.precedence}" if self.precedence else ""
        head += f" DLIST(/{' '.join(self.tags)})" if self.tags else ""
        links = [f"(={self.link})"] if self.link else []
        return "\n    ".join([f"({head}", *map(str, self.transformations), *links]) + ")"


@dataclass(frozen=True, slots=True)
class Memory:
    """The keyword whose sentences are stored, and the four transformations that do it."""

    keyword: str
    transformations: tuple[Transformation, ...]

    def __str__(self) -> str:
        pairs = ((one.pattern, one.reassemblies[0].words or ()) for one in self.transformations)
        lines = (f"({_joined(pattern)} = {_joined(words)})" for pattern, words in pairs)
        return "\n    ".join([f"(MEMORY {self.keyword}", *lines]) + ")"


@dataclass(frozen=True)
class Script:
    """The rules of a conversation; `str` writes them in the language they are read from.

    Attributes:
        opening: what the program says first.
        rules: by keyword; "NONE" has the rule for sentences without one.
        memory: None for a script that stores nothing.
    """

    opening: str
    rules: Mapping[str, Rule]
    memory: Memory | None = None

    @classmethod
    def parse(cls, text: str, name: str = "script") -> Script:
        """Read a script.

        Args:
            text: the script; lower case is read as capitals, and a semicolon begins a comment.
            name: what messages call it, such as a path.

        Raises:
            UsageError: the script is malformed; the message has the line.
        """
        return _Parser(name).script(text)

    @classmethod
    def listener(cls) -> Script:
        """Return the script of the package, a friendly listener."""
        path = pathlib.Path(__file__).with_name("listener.txt")
        return cls.parse(path.read_text("utf-8"), path.name)

    @cached_property
    def tags(self) -> dict[str, set[str]]:
        """The words of each tag."""
        found: dict[str, set[str]] = {}
        for rule in self.rules.values():
            for tag in rule.tags:
                found.setdefault(tag, set()).add(rule.keyword)
        return found

    def __str__(self) -> str:
        memory = [str(self.memory)] if self.memory else []
        return "\n".join([f"({self.opening})", "START", *map(str, self.rules.values()), *memory, "()"]) + "\n"


def _joined(parts: Iterable[Part]) -> str:
    return " ".join(map(str, parts))


# --- a script's text


@dataclass(frozen=True, slots=True)
class _List:
    line: int
    items: list[str | _List]

    def __str__(self) -> str:
        return f"({_joined(self.items)})"  # type: ignore[arg-type]

    @property
    def link(self) -> str | None:
        """X where this is (=X)."""
        match self.items:
            case ["=", str(name)] if name != "=":
                return name
        return None


class _Parser:
    def __init__(self, name: str) -> None:
        self.name = name
        self.links: list[tuple[int, str]] = []  # (line, keyword), checked when all rules are known
        self.choices: list[tuple[int, str]] = []  # (line, tag)

    def error(self, line: int, problem: str) -> UsageError:
        return UsageError(f"{self.name}: line {line}: {problem}")

    def lists(self, text: str) -> list[str | _List]:
        """Return the nested lists of a text."""
        stack = [_List(1, [])]
        for line, content in enumerate(text.upper().split("\n"), 1):
            for token in re.findall(r"[()=]|[^\s()=]+", content.partition(";")[0]):
                if token == "(":
                    stack.append(_List(line, []))
                    if len(stack) > MAX_DEPTH + 1:
                        raise self.error(line, f"got more than {MAX_DEPTH} open parentheses, expected at most 4")
                elif token != ")":
                    stack[-1].items.append(token)
                elif len(stack) > 1:
                    done = stack.pop()
                    stack[-1].items.append(done)
                else:
                    raise self.error(line, "got a closing parenthesis, expected an opening one before it")
        if len(stack) > 1:
            raise self.error(stack[-1].line, "got a list without an end, expected a closing parenthesis")
        return stack[0].items

    def script(self, text: str) -> Script:
        line = 1
        rules: dict[str, Rule] = {}
        memory: Memory | None = None
        opening: str | None = None
        is_at_end = False
        for i, item in enumerate(self.lists(text)):
            line = item.line if isinstance(item, _List) else line
            if is_at_end:
                raise self.error(line, f"got {item!s:.40} after (), expected the end of the script")
            if not isinstance(item, _List):
                if item != "START" or i != 1:
                    raise self.error(line, f"got {item:.40}, expected a list")
            elif opening is None:
                opening = " ".join(self.word(item, one, "a word of the opening") for one in item.items)
            elif not item.items:
                is_at_end = True
            elif item.items[0] == "MEMORY":
                if memory:
                    raise self.error(line, "got a second MEMORY, expected one")
                memory = self.memory(item)
            else:
                rule = self.rule(item)
                if rule.keyword in rules:
                    raise self.error(line, f"got a second rule for {rule.keyword}, expected one")
                rules[rule.keyword] = rule
        script = Script(opening or "", rules, memory)
        if NONE not in rules or not rules[NONE].transformations:
            raise self.error(line, "got no rule NONE with a decomposition, expected one")
        for line, link in self.links:
            if link not in rules or not rules[link].is_key:
                raise self.error(line, f"got a link to {link}, expected the keyword of a rule that can answer")
        for line, tag in self.choices:
            if tag not in script.tags:
                raise self.error(line, f"got the tag {tag}, expected one that a DLIST gives to a word")
        return script

    def word(self, where: _List, item: str | _List | None, expected: str) -> str:
        if not isinstance(item, str) or item == "=":
            raise self.error(where.line, f"got {'nothing' if item is None else item!s:.40}, expected {expected}")
        return item

    def number(self, where: _List, digits: str) -> int:
        if len(digits) > len(str(MAX_NUMBER)):
            raise self.error(where.line, f"got the number {digits:.40}, expected at most {MAX_NUMBER}")
        return int(digits)

    def names(self, where: _List, kind: str) -> tuple[str, ...]:
        """Return A and B of (*A B), (/A B), (* A B) and (/ A B)."""
        first, *rest = where.items or [""]
        if not isinstance(first, str) or first[:1] not in kind or not first:
            raise self.error(where.line, f"got {where!s:.40}, expected {' or '.join(f'({one}WORDS)' for one in kind)}")
        names = [*([first[1:]] if first[1:] else []), *(self.word(where, one, "a word") for one in rest)]
        if not names:
            raise self.error(where.line, f"got {where!s:.40}, expected at least one word after {first}")
        return tuple(names)

    def link(self, where: _List, found: str) -> str:
        self.links.append((where.line, found))
        return found

    def rule(self, source: _List) -> Rule:
        items = deque(source.items)
        keyword = self.word(source, items.popleft(), "a keyword")
        substitute: str | None = None
        precedence = 0
        tags: tuple[str, ...] = ()
        link: str | None = None
        transformations: list[Transformation] = []
        while items:
            match items.popleft():
                case "=":
                    substitute = self.word(source, items.popleft() if items else None, "a word after =")
                case "DLIST":
                    listed = items.popleft() if items else None
                    if not isinstance(listed, _List):
                        raise self.error(source.line, f"{keyword}: got no list after DLIST, expected (/TAGS)")
                    tags = self.names(listed, "/")
                case str(digits) if _is_number(digits):
                    precedence = self.number(source, digits)
                case _List() as part if link is not None:
                    raise self.error(part.line, f"{keyword}: got {part!s:.40} after (={link}), expected the rule's end")
                case _List(_, [_List(), *_]) as part:
                    transformations.append(self.transformation(part))
                case _List() as part if part.link:
                    link = self.link(part, part.link)
                case other:
                    line = other.line if isinstance(other, _List) else source.line
                    expected = "((DECOMPOSITION) (REASSEMBLY) ...) or (=KEYWORD)"
                    raise self.error(line, f"{keyword}: got {other!s:.40}, expected {expected}")
        return Rule(keyword, substitute, precedence, tags, tuple(transformations), link)

    def memory(self, source: _List) -> Memory:
        keyword = self.word(source, source.items[1] if source.items[1:] else None, "a keyword after MEMORY")
        transformations = []
        for item in source.items[2:]:
            if not isinstance(item, _List) or "=" not in item.items:
                raise self.error(source.line, f"MEMORY: got {item!s:.40}, expected (DECOMPOSITION = REASSEMBLY)")
            middle = item.items.index("=")
            pattern = self.pattern(_List(item.line, item.items[:middle]))
            words = self.words(_List(item.line, item.items[middle + 1 :]), len(pattern))
            transformations.append(Transformation(pattern, (Reassembly(words),)))
        if len(transformations) != 4:
            raise self.error(source.line, f"MEMORY: got {len(transformations)} transformations, expected 4")
        self.link(source, keyword)
        return Memory(keyword, tuple(transformations))

    def transformation(self, source: _List) -> Transformation:
        first, *rest = source.items
        assert isinstance(first, _List)  # by which rule() knows a transformation
        pattern = self.pattern(first)
        if not rest:
            raise self.error(source.line, f"got no reassembly for {first!s:.40}, expected at least one")
        return Transformation(pattern, tuple(self.reassembly(source, one, len(pattern)) for one in rest))

    def pattern(self, source: _List) -> tuple[Part, ...]:
        parts: list[Part] = []
        for item in source.items:
            if isinstance(item, _List):
                names = self.names(item, "*/")
                kind = str(item.items[0])[0]
                self.choices += [(item.line, tag) for tag in names if kind == "/"]
                parts.append(Choice(kind, names))
            elif _is_number(item):
                parts.append(self.number(source, item))
            else:
                parts.append(self.word(source, item, "a word"))
        return tuple(parts)

    def reassembly(self, outer: _List, source: str | _List, n_parts: int) -> Reassembly:
        if not isinstance(source, _List):
            raise self.error(outer.line, f"got {source:.40}, expected a reassembly in parentheses")
        match source.items:
            case ["NEWKEY"]:
                return Reassembly(None)
            case ["PRE", _List() as words, _List() as target] if target.link:
                return Reassembly(self.words(words, n_parts), self.link(target, target.link))
            case _ if source.link:
                return Reassembly(None, self.link(source, source.link))
            case []:
                raise self.error(source.line, "got (), expected an answer")
        return Reassembly(self.words(source, n_parts))

    def words(self, source: _List, n_parts: int) -> tuple[int | str, ...]:
        words: list[int | str] = []
        for item in source.items:
            word = self.word(source, item, "a word of an answer")
            words.append(self.number(source, word) if _is_number(word) else word)
            if isinstance(words[-1], int) and not 1 <= words[-1] <= n_parts:
                raise self.error(source.line, f"got {word}, expected a part of the decomposition, from 1 to {n_parts}")
        return tuple(words)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()
