"""Votes of other arenas, and ours for them: FastChat's log of votes and LMArena's published battles, as JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpt2rt.arena.contestants import Contestant
from gpt2rt.arena.votes import Outcome, Vote, Votes
from gpt2rt.errors import UsageError

FASTCHAT = {"leftvote": Outcome.A, "rightvote": Outcome.B, "tievote": Outcome.TIE, "bothbad_vote": Outcome.BAD}
LMARENA = {"model_a": Outcome.A, "model_b": Outcome.B, "tie": Outcome.TIE, "tie (bothbad)": Outcome.BAD}


def imported(name: str) -> Contestant:
    """Return the contestant that stands for a name in an imported file."""
    return Contestant(name[:60], "imported", {"name": name})


def read_votes(lines: Iterable[str]) -> Iterator[tuple[Contestant, Contestant, Vote]]:
    """Read votes; each line says by its fields which of the two forms it has.

    Yields:
        The contestants in slots A and B, and the vote.

    Raises:
        UsageError: a line is not JSON, has neither form, or an outcome that is not known; none is taken for a tie.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise UsageError(f"line {number}: got no JSON object")
            if "winner" in record:
                yield _from_lmarena(record, line)
            elif record.get("type") in ("chat", "upvote", "downvote", "flag", "regenerate", "share"):
                continue  # FastChat's log has more than votes
            else:
                yield _from_fastchat(record, line)
        except UsageError as error:
            raise UsageError(f"line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"line {number}: not a vote of FastChat or LMArena: {error!r:.80}") from None


def _outcome(known: dict[str, Outcome], value: object) -> Outcome:
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"got the outcome {value!r:.80}, expected one of {', '.join(known)}")
    return known[value]


def _from_lmarena(record: dict[str, Any], line: str) -> tuple[Contestant, Contestant, Vote]:
    a, b = imported(record["model_a"]), imported(record["model_b"])
    talks = record.get("conversation_a") or [], record.get("conversation_b") or []
    texts = [[(message["role"], message["content"]) for message in talk] for talk in talks]
    outcome = _outcome(LMARENA, record["winner"])
    return a, b, _vote(line, a, b, outcome, texts, str(record.get("judge", "")), float(record.get("tstamp") or 0))


def _from_fastchat(record: dict[str, Any], line: str) -> tuple[Contestant, Contestant, Vote]:
    outcome = _outcome(FASTCHAT, record.get("type"))
    first, second = record["states"]
    names = [name or state["model_name"] for name, state in zip(record["models"], record["states"], strict=True)]
    a, b = map(imported, names)
    texts = []
    for state in (first, second):
        talk = state["messages"][state.get("offset", 0) :]
        texts.append([(("user", "assistant")[i % 2], content) for i, (_, content) in enumerate(talk)])
    return a, b, _vote(line, a, b, outcome, texts, "", float(record.get("tstamp") or 0))


def _vote(
    line: str, a: Contestant, b: Contestant, outcome: Outcome, talks: list[list[tuple[str, Any]]], voter: str, at: float
) -> Vote:
    messages, first, second = (
        [str(content) for role, content in talk if role == wanted and content]
        for talk, wanted in ((talks[0], "user"), (talks[0], "assistant"), (talks[1], "assistant"))
    )
    # The same line is the same round, so importing a file twice adds nothing. No address is taken.
    id_ = "import-" + hashlib.sha256(line.strip().encode()).hexdigest()[:24]
    is_identical = bool(first) and first == second
    facts = (id_, voter[:40], "import", None, a.id, b.id, 0, 0, None, outcome, is_identical)
    return Vote(*facts, messages, first, second, None, at)


def import_votes(votes: Votes, lines: Iterable[str]) -> tuple[int, int]:
    """Add the votes of a file. Nothing is added if a line is wrong.

    Returns:
        How many votes were added, and how many were there already.
    """
    found = list(read_votes(lines))
    known = {vote.round for vote in votes.votes()}
    n_added = 0
    for a, b, vote in found:
        votes.add(a)
        votes.add(b)
        if vote.round not in known:
            votes.record(vote)
            known.add(vote.round)
            n_added += 1
    return n_added, len(found) - n_added


def export_votes(votes: Votes, form: str) -> Iterator[str]:
    """Yield the votes as JSON lines, of people only, in one of the two forms."""
    names = {one.id: one.name for one in votes.contestants()}
    write: Callable[[Vote, str, str], dict[str, Any]] = {"fastchat": _to_fastchat, "lmarena": _to_lmarena}[form]
    for vote in votes.votes(("person", "import")):
        yield json.dumps(write(vote, names[vote.first], names[vote.second]), ensure_ascii=False)


def _talk(vote: Vote, answers: list[str]) -> list[tuple[str, str]]:
    found = []
    for message, answer in zip(vote.messages, answers, strict=False):
        found += [("user", message), ("assistant", answer)]
    return found


def _to_lmarena(vote: Vote, a: str, b: str) -> dict[str, Any]:
    talks = {
        f"conversation_{slot}": [{"role": role, "content": content} for role, content in _talk(vote, answers)]
        for slot, answers in (("a", vote.first_answers), ("b", vote.second_answers))
    }
    winner = {outcome: name for name, outcome in LMARENA.items()}[vote.outcome]
    facts = {"question_id": vote.round, "model_a": a, "model_b": b, "winner": winner, "judge": vote.voter}
    return {**facts, **talks, "turn": len(vote.messages), "anony": True, "tstamp": vote.voted}


def _to_fastchat(vote: Vote, a: str, b: str) -> dict[str, Any]:
    kind = {outcome: name for name, outcome in FASTCHAT.items()}[vote.outcome]
    states = [
        {
            "conv_id": vote.round,
            "model_name": name,
            "offset": 0,
            "messages": [list(pair) for pair in _talk(vote, texts)],
        }
        for name, texts in ((a, vote.first_answers), (b, vote.second_answers))
    ]
    return {"tstamp": vote.voted, "type": kind, "models": [a, b], "states": states}
