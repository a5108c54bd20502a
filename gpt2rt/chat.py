"""Conversation: turns with a model, within its context."""

from __future__ import annotations

import codecs
from collections import namedtuple
from collections.abc import Generator, Iterable
from time import perf_counter

from gpt2rt._sampler import Sampler
from gpt2rt.chat_format import ChatFormat, chat_format
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.generate import Generation, StopStrings, draw_seed
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    from gpt2rt.model import Model
    from gpt2rt.sampling import SamplingKeywords

MAX_TOKENS = 120  # of an answer, unless the caller says otherwise
MAX_DRAFTS = 5  # of an answer: blank ones and repeated ones are drawn again
MAX_BATCH = 16  # drafts that may be drawn together
ANSWERS_REMEMBERED = 8  # that the next answer must differ from
ECHO_WORDS = 4  # a message of so many words must not come back as the answer

Turn = namedtuple("Turn", "user answer tokens")
Turn.__doc__ = "A message, its answer, and the answer's ids as they were drawn."


def words_of(text: str) -> str:
    """The text as it is compared: letters and digits in lower case, parted by single spaces."""
    kept = (c if c.isalnum() else " " if c.isspace() else "" for c in text.casefold())
    return " ".join("".join(kept).split())


class Answer:
    """The answer to a message: an iterator of pieces of text, to be read to its end.

    A KeyboardInterrupt or `close()` in the middle ends it early; what there is becomes the turn's answer.

    Attributes:
        text: the whole answer, once it has ended; "" where the model had none, then there is no new turn.
        finish_reason: None while it runs, then as `Generation`'s, "interrupted", or "blank".
        forgotten: how many old turns had to leave the context to make room.
        n_prompt_tokens, prompt_seconds: what had to be read.
        n_tokens, seconds: what was drawn, all drafts together.
    """

    def __init__(
        self, conversation: Conversation, message: str, tokens: list[int], forgotten: int, replaced: Turn | None
    ):
        """Made by `Conversation`. tokens: all that the model is to have read before it answers."""
        self.text = ""
        self.finish_reason: str | None = None
        self.forgotten = forgotten
        self.n_prompt_tokens = self.n_tokens = 0
        self.prompt_seconds = self.seconds = 0.0
        self._conversation = conversation
        self._message = message
        self._replaced = replaced
        self._drawn: list[int] = []  # the ids of the draft that becomes the answer
        self._pieces = self._run(tokens)

    def _run(self, tokens: list[int]) -> Generator[str]:
        conversation = self._conversation
        sampling, is_talk = conversation.sampling, conversation.format.is_talk
        if self._replaced:
            conversation.turns.pop()
        earlier = self._earlier_answers() if is_talk else set()
        try:
            best = self._best(tokens, earlier) if conversation.drafts > 1 and is_talk else ""
            if best:
                yield best
            else:
                yield from self._first_new(tokens, earlier)
        except (KeyboardInterrupt, GeneratorExit):
            self.finish_reason = "interrupted"
            raise
        finally:
            conversation.sampler.use(sampling)
            self._keep()

    def _best(self, tokens: list[int], earlier: set[str]) -> str:
        """The best of several drafts drawn together, "" where all are blank or repeat an earlier answer."""
        from gpt2rt.drafts import best_answer, drawn_together  # only who asks for drafts needs it

        conversation = self._conversation
        new, begin = self._new_tokens(tokens), perf_counter()
        drafts, prompt_seconds = drawn_together(
            conversation.session,
            new,
            conversation.sampler,
            conversation.drafts,
            max_tokens=conversation.max_tokens,
            stop=(*conversation.format.stop, *conversation.stop),
            history=self._history(),
        )
        self.n_prompt_tokens += len(new)
        self.prompt_seconds += prompt_seconds
        self.n_tokens += sum(len(draft.continuation.tokens) for draft in drafts)
        known = {words_of(""), *earlier}
        fresh = [draft for draft in drafts if words_of(draft.text) not in known]
        best = best_answer(conversation.format, self._message, fresh) if fresh else None
        self.seconds += perf_counter() - begin - prompt_seconds
        if best is None:
            return ""
        conversation.session = best.session
        self._drawn = best.continuation.tokens
        self.finish_reason = best.continuation.finish_reason
        text: str = best.text.strip()
        return text

    def _first_new(self, tokens: list[int], earlier: set[str]) -> Generator[str]:
        """Draws an answer and, where it is blank or repeats an earlier one, another."""
        conversation = self._conversation
        sampling, is_talk = conversation.sampling, conversation.format.is_talk
        drafts = MAX_DRAFTS if is_talk and sampling.temperature > 0 else 1
        for draft in range(drafts):
            is_last = draft == drafts - 1
            # The same words come again if they are the likely ones: each further draft is drawn a little warmer.
            warmer = min(max(sampling.temperature, 1.0), sampling.temperature * 1.25**draft)
            conversation.sampler.use(sampling.replace(temperature=warmer))
            generation = self._generation(tokens)
            self._drawn = generation.tokens
            raw, shown = "", 0
            try:
                for piece in generation:
                    raw += piece
                    text = raw.strip() if is_talk else raw
                    # What may still become an earlier answer is not shown: it could not be taken back.
                    words = words_of(text)
                    may_repeat = not is_last and any(answer.startswith(words) for answer in earlier)
                    if len(text) > shown and not may_repeat:
                        yield text[shown:]
                        shown = len(text)
            finally:
                self._count(generation)
            text = raw.strip() if is_talk else raw
            if shown or is_last or (text and words_of(text) not in earlier):
                break
        if text[shown:]:
            yield text[shown:]
        self.finish_reason = generation.finish_reason if text else "blank"

    def _earlier_answers(self) -> set[str]:
        """The answers that must not be given again, as `words_of`."""
        turns = [*self._conversation.turns[-ANSWERS_REMEMBERED:], *filter(None, [self._replaced])]
        earlier = {words_of(turn.answer) for turn in turns}
        message = words_of(self._message)
        return earlier | {message} if len(message.split()) >= ECHO_WORDS else earlier

    def _new_tokens(self, tokens: list[int]) -> list[int]:
        """What of these tokens is new to the session, which then has exactly those before."""
        session = self._conversation.session
        known = session.tokens
        same = next(
            (i for i, (a, b) in enumerate(zip(known, tokens, strict=False)) if a != b), min(len(known), len(tokens))
        )
        session.rewind(len(known) - same)
        return tokens[same:]

    def _history(self) -> list[int]:
        """The ids of the answers that the model is shown."""
        conversation = self._conversation
        return [token for turn in conversation.turns[conversation.n_forgotten :] for token in turn.tokens]

    def _generation(self, tokens: list[int]) -> Generation:
        """A draft behind exactly these tokens, of which the session reads only those that are new to it."""
        conversation = self._conversation
        return Generation(
            conversation.session,
            self._new_tokens(tokens),
            conversation.sampler,
            max_tokens=conversation.max_tokens,
            stop=(*conversation.format.stop, *conversation.stop),
            history=self._history(),
        )

    def _count(self, generation: Generation) -> None:
        self.n_prompt_tokens += generation.n_prompt_tokens
        self.prompt_seconds += generation.prompt_seconds
        self.n_tokens += generation.n_tokens
        self.seconds += generation.seconds

    def _keep(self) -> None:
        """Makes the turn, of the tokens before a stop string; or none, where nothing is left."""
        conversation = self._conversation
        tokens = conversation.answer_tokens(self._drawn, self.finish_reason == "interrupted")
        text = conversation.model.tokenizer.decode(tokens)
        self.text = text.strip() if conversation.format.is_talk else text
        if self.text:
            conversation.turns.append(Turn(self._message, self.text, tokens))
        elif self._replaced:
            conversation.turns.append(self._replaced)

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends it early."""
        self._pieces.close()


class Conversation:
    """Turns with a model. The model has read only what is new when it answers; all else is in its session's cache.

    Attributes:
        model: a `Model`.
        format: its `ChatFormat`.
        session: what the model has read.
        turns: list of `Turn`, all of them.
        n_forgotten: how many of the first turns are no longer in the context.
        sampler: what draws the answers.
        max_tokens: of an answer.
        stop: further strings that end an answer.
        drafts: of an answer, of which the best is taken.
    """

    def __init__(
        self,
        model: Model,
        *,
        format: str | None = None,
        user_name: str | None = None,
        bot_name: str | None = None,
        opening: str | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        stop: Iterable[str] = (),
        drafts: int = 1,
        **sampling: Unpack[SamplingKeywords],
    ):
        """
        Args:
            model: a `Model`.
            format: "plain", "dialogpt" or "raw"; it, the names and the opening (text before the first turn) come from
                the model's file where they are None.
            seed: of all random draws, drawn where it is None.
            max_tokens: of an answer, None for 120.
            stop: strings that end an answer, besides those of the format.
            drafts: draw so many answers together and take the one that fits the message best (`drafts.best_answer`);
                it then comes in one piece.
            sampling: as for `SamplingParams`, over `CHAT_DEFAULTS`.

        Raises:
            UsageError: an argument can't be used.
            ModelFileError: what the file says of chat can't.
        """
        params = SamplingParams(**CHAT_DEFAULTS).replace(**sampling)
        self.model = model
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        StopStrings(self.stop)  # refuses what can't be used now, not at the first answer
        self.turns: list[Turn] = []
        self.n_forgotten = 0
        self.session = model.session()
        self._answer: Answer | None = None
        self.format = self.made_format(format, user_name, bot_name, opening)
        if type(drafts) is not int or not 1 <= drafts <= MAX_BATCH:
            raise UsageError(f"drafts: got {drafts!r:.80}, expected a whole number from 1 to {MAX_BATCH}")
        if drafts > 1 and not self.format.is_talk:
            raise UsageError(f"drafts: chat format {self.format.name!r} has no messages to choose by (leave them out)")
        self.drafts = drafts
        self.sampler = Sampler(params, draw_seed() if seed is None else seed, self.format.exempt)
        self.max_tokens = min(MAX_TOKENS, self.session.n_ctx) if max_tokens is None else max_tokens
        self.check_max_tokens(self.max_tokens)

    # --- settings

    @property
    def sampling(self) -> SamplingParams:
        """How answers are drawn."""
        return self.sampler.params

    @property
    def seed(self) -> int:
        """The seed of the random draws."""
        return self.sampler.seed

    def settings(self) -> dict[str, float]:
        """All that `set` can change, by name."""
        return {**self.sampling.as_dict(), "max_tokens": self.max_tokens, "seed": self.seed}

    def set(self, name: str, value: Any) -> None:
        """Changes a sampling option, max_tokens, or the seed, which starts the draws anew. Raises UsageError."""
        self._finish()
        if name in SAMPLING_OPTIONS:
            self.sampler.use(self.sampling.replace(**{name: value}))
        elif name == "seed":
            self.sampler = Sampler(self.sampling, value, self.format.exempt)
        elif name == "max_tokens":
            self.check_max_tokens(value)
            self.max_tokens = value
        else:
            raise UsageError(f"setting {name!r}: expected one of {', '.join(self.settings())}")

    def check_max_tokens(self, value: int) -> None:
        """Raises UsageError where that is no number of tokens for an answer."""
        if type(value) is not int or not 1 <= value <= self.session.n_ctx:
            raise UsageError(f"max_tokens: got {value!r:.80}, expected a whole number from 1 to {self.session.n_ctx}")

    def made_format(
        self,
        name: str | None = None,
        user_name: str | None = None,
        bot_name: str | None = None,
        opening: str | None = None,
    ) -> ChatFormat:
        """A format for the model; what is None comes from its file. Raises UsageError, ModelFileError."""
        made = chat_format(self.model, name, user_name, bot_name, opening)
        if len(made.opening_tokens) > self.session.n_ctx // 2:
            raise UsageError(
                f"opening: {len(made.opening_tokens)} tokens, expected at most {self.session.n_ctx // 2},"
                " half of the model's context"
            )
        return made

    # --- talk

    def say(self, message: str) -> Answer:
        """Says something to the model.

        Args:
            message: in one line; white space is folded, but in the raw format.

        Returns:
            The answer, to be iterated; the turn is made when it ends.

        Raises:
            UsageError: the message is empty.
            ContextFullError: it is longer than the context. Nothing has changed then.
        """
        self._finish()
        message = self.format.clean(message)
        if not message:
            raise UsageError("message: it is empty, expected some text")
        tokens, n_forgotten = self._prompt(message, self.turns)
        return self._begin(message, tokens, n_forgotten, None)

    def retry(self) -> Answer:
        """Takes the last answer back and lets the model answer again, differently. Raises UsageError: no turn yet."""
        self._finish()
        if not self.turns:
            raise UsageError("retry: there is no answer yet")
        last = self.turns[-1]
        tokens, n_forgotten = self._prompt(last.user, self.turns[:-1])
        return self._begin(last.user, tokens, n_forgotten, last)

    def undo(self) -> Turn:
        """Takes the last turn back and returns it. Raises UsageError: there is none."""
        self._finish()
        if not self.turns:
            raise UsageError("undo: there is no turn to take back")
        turn = self.turns.pop()
        self.n_forgotten = min(self.n_forgotten, len(self.turns))
        return turn

    def reset(self) -> None:
        """Forgets all turns; settings and the opening stay."""
        self._finish()
        self.turns.clear()
        self.n_forgotten = 0

    def reset_to(self, format: ChatFormat, sampler: Sampler, max_tokens: int, turns: list[Turn]) -> None:
        """Becomes another conversation with the same model."""
        self.reset()
        self.format, self.sampler, self.max_tokens, self.turns = format, sampler, max_tokens, turns

    def _finish(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _begin(self, message: str, tokens: list[int], n_forgotten: int, replaced: Turn | None) -> Answer:
        forgotten = max(0, n_forgotten - self.n_forgotten)
        self.n_forgotten = n_forgotten
        self._answer = Answer(self, message, tokens, forgotten, replaced)
        return self._answer

    def _turn_tokens(self, turn: Turn) -> list[int]:
        return [*self.format.prompt(turn.user), *turn.tokens, *self.format.closing_tokens]

    def _prompt(self, message: str, turns: list[Turn]) -> tuple[list[int], int]:
        """All that the model is to have read before it answers, and how many of the first turns that leaves out.

        Positions are learned, so old tokens can't be shifted out of the cache: whole turns leave, down to half of the
        context, so that the rest is read again only once in a while.
        """
        n_forgotten = first = min(self.n_forgotten, len(turns))
        if self.format.turns_kept is not None:
            first = max(first, len(turns) - self.format.turns_kept)
        asked = self.format.prompt(message)
        opening = self.format.opening_tokens
        kept = [self._turn_tokens(turn) for turn in turns[first:]]
        room = self.session.n_ctx - min(self.max_tokens, self.session.n_ctx // 4) - len(opening)
        if len(asked) > room:
            raise ContextFullError(f"message: {len(asked)} tokens, the context has room for {room} (shorten it)")
        used = len(asked) + sum(map(len, kept))
        if used > room:
            while kept and used > room - self.session.n_ctx // 4:
                used -= len(kept.pop(0))
            n_forgotten = len(turns) - len(kept)
        return [*opening, *(token for tokens in kept for token in tokens), *asked], n_forgotten

    def answer_tokens(self, drawn: list[int], is_interrupted: bool) -> list[int]:
        """The drawn ids up to a stop string, and without the half of a character that an interruption leaves."""
        tokenizer = self.model.tokenizer
        content = tokenizer.decode_bytes(drawn)
        stops = [one.encode() for one in (*self.format.stop, *self.stop)]
        complete = [(at + len(one), at) for one in stops if (at := content.find(one)) >= 0]
        if complete:
            content = content[: min(complete)[1]]  # the one that StopStrings found
        if is_interrupted:
            content = content[: codecs.utf_8_decode(content, "replace", False)[1]]
        kept: list[int] = []
        length = 0
        for token in drawn:
            piece = len(tokenizer.token_bytes(token))
            if length + piece > len(content):
                break
            kept.append(token)
            length += piece
        return kept + tokenizer.encode(content[length:].decode("utf-8", "ignore"))
