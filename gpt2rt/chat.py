"""Conversation: turns with a model, within its context."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Generator, Iterable, Mapping, Sequence
from time import perf_counter

from gpt2rt import _engine
from gpt2rt._chat import MAX_TOKENS as MAX_TOKENS  # noqa: PLC0414 (others import it from here)
from gpt2rt._chat import ChatFormat, earlier_answers, kept_answer, prompt_of
from gpt2rt.arguments import whole_number
from gpt2rt.chat_format import chat_format
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.generate import run_together, stop_strings
from gpt2rt.messages import turns_of
from gpt2rt.reply import Reply
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    from gpt2rt.model import Model
    from gpt2rt.sampling import SamplingKeywords

Turn = namedtuple("Turn", "user answer tokens")
Turn.__doc__ = "A message, its answer, and the answer's ids as they were sampled."


class Answer:
    """The answer to a message: an iterator of pieces of text. Its turn is added to the conversation when it ends.

    A KeyboardInterrupt or `close()` ends it early; the text so far becomes the turn's answer. The conversation's next
    `say()`, `retry()`, `undo()` or `set()` also ends it early, but an answer that was not started is generated in full.

    Attributes:
        finish_reason: None while it runs, then that of a `Generation` ("stop" or "length"), "interrupted" or "blank".
        n_dropped: how many old turns were dropped from the context to make room.
        n_prompt_tokens, prompt_seconds: the number of tokens evaluated first, and the time it took.
        n_tokens, seconds: the number of tokens sampled, those of discarded answers included, and the time it took.
        prompt: the ids of the whole prompt, from the start of the context.
        tokens: the ids of the answer, once it has ended.
    """

    def __init__(
        self, conversation: Conversation, message: str, prompt: list[int], n_dropped: int, replaced: Turn | None
    ):
        """Created by `Conversation`.

        Args:
            replaced: the last turn, if this answer replaces its answer.
        """
        self._text = ""
        self.prompt = prompt
        self.finish_reason: str | None = None
        self.n_dropped = n_dropped
        self.n_prompt_tokens = self.n_tokens = 0
        self.prompt_seconds = self.seconds = 0.0
        self._conversation = conversation
        self._message = message
        self._replaced = replaced
        self.tokens: list[int] = []
        self._sampled: list[int] = []  # the ids of the answer, while it is sampled
        self._is_whole = True  # whether it begins with the answer's first word
        self._pieces = self._run()
        self._is_begun = False

    def _run(self) -> Generator[str]:
        try:
            yield from self._sample()
        except (KeyboardInterrupt, GeneratorExit):
            self.finish_reason = "interrupted"
            raise
        finally:
            self._keep()

    def _sample(self) -> Generator[str]:
        """Sample an answer and, where it is blank or repeats an earlier one, another."""
        sequence = self._conversation.sequence
        self._new_tokens()
        reply = self.reply(sequence)
        self.n_prompt_tokens += reply.n_prompt_tokens
        begin, first, last = perf_counter(), 0.0, 0.0
        try:
            for _, piece in run_together([reply]):
                last = perf_counter()
                first = first or last
                if piece:
                    yield piece
        finally:
            self._sampled = reply.tokens
            self.n_tokens += reply.n_tokens
            self.prompt_seconds += first - begin if first else 0.0
            self.seconds += last - first
        self.finish_reason = reply.finish_reason

    def reply(self, sequence: _engine.Sequence, **options: Any) -> Reply:
        """Return a `Reply` that samples this answer, for a caller that steps it; it does not become a turn.

        Args:
            sequence: has evaluated the first tokens of `prompt`, or none.
            options: seed, logprobs, logit_bias and lookup, as for `Reply`.
        """
        conversation = self._conversation
        return Reply(
            sequence,
            self.prompt[len(sequence) :],
            conversation.sampling,
            is_talk=conversation.format.is_talk and self._is_whole,
            earlier=self._earlier_answers(),
            max_tokens=conversation.max_tokens,
            stop=(*conversation.format.stop, *conversation.stop),
            history=self._history(),
            exempt=conversation.format.exempt,
            **options,
        )

    def continue_after(self, text: str) -> None:
        """Make this the rest of an answer that begins with a text. Raises ContextFullError: there is no room for it."""
        n_ctx = self._conversation.sequence.n_ctx
        self.prompt = [*self.prompt, *self._conversation.format.answer(text)]
        self._is_whole = False
        if len(self.prompt) > n_ctx:
            raise ContextFullError(f"messages: {len(self.prompt)} tokens, but the model has {n_ctx} positions")

    def _other_turns(self) -> list[Turn]:
        """The turns before this one."""
        turns = self._conversation.turns
        return turns[:-1] if self._replaced else turns

    def _earlier_answers(self) -> set[str]:
        """The answers that must not be given again, as `words_of`; none if this is no talk."""
        replaced = self._replaced.answer if self._replaced else None
        return earlier_answers(self._conversation.format, self._other_turns(), replaced, self._message)

    def _new_tokens(self) -> list[int]:
        """Return the part of the prompt that is new to the conversation's sequence, which is cut back to the rest."""
        sequence, tokens = self._conversation.sequence, self.prompt
        same = sequence.common_prefix(tokens)
        sequence.truncate(same)
        return tokens[same:]

    def _history(self) -> list[int]:
        """The ids of the answers that are in the context."""
        turns = self._other_turns()[self._conversation.n_dropped :]
        return [token for turn in turns for token in turn.tokens]

    def _keep(self) -> None:
        """Make the turn, of the tokens before a stop string; or none, where nothing is left."""
        conversation = self._conversation
        tokens, self._text = kept_answer(
            conversation.model.tokenizer,
            self._sampled,
            (*conversation.format.stop, *conversation.stop),
            self.finish_reason == "interrupted",
            conversation.format.is_talk and self._is_whole,
        )
        self.tokens = tokens
        if self._text:
            n_turns = len(conversation.turns) - bool(self._replaced)
            conversation.turns[n_turns:] = [Turn(self._message, self._text, tokens)]
        else:
            conversation.n_dropped -= self.n_dropped  # the message needs no room any more

    @property
    def text(self) -> str:
        """The whole answer; it is generated to the end first. If it is empty, there is no new turn."""
        for _ in self:
            pass
        return self._text

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> str:
        self._is_begun = True
        return next(self._pieces)

    def close(self) -> None:
        """End the answer early. One that was not started leaves no turn."""
        self._pieces.close()

    def finish(self) -> None:
        """Generate the answer in full if it was not started; end it early otherwise."""
        if not self._is_begun:
            for _ in self:
                pass
        self.close()


class Conversation:
    """A chat with a model. Earlier turns stay in the KV cache: the model evaluates only what is new.

    Attributes:
        model: the `Model`.
        format: the `ChatFormat`, which turns messages into a prompt.
        sequence: the `Sequence` that holds the evaluated tokens.
        turns: a list of all turns, each a `Turn` with `user`, `answer` and `tokens` (the ids of the answer).
        n_dropped: how many of the first turns are no longer in the context.
        sampling: the `SamplingParams`. seed: the seed of the random generator.
        max_tokens: the maximum number of tokens in an answer.
        stop: strings that end an answer, besides those of the format.
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
        stop: str | Iterable[str] = (),
        **sampling: Unpack[SamplingKeywords],
    ):
        """
        Args:
            model: a `Model`.
            format: "plain", "dialogpt", "template" or "raw"; None for that of the model file.
            user_name, bot_name: the names of the speakers; None for those of the model file.
            opening: text before the first turn; None for that of the model file.
            seed: of the random generator; None for one from the system.
            max_tokens: the maximum number of tokens in an answer; None for 120.
            stop: strings that end an answer, besides those of the format.
            sampling: options of `SamplingParams`; the defaults are temperature 0.7, top_p 0.9, repetition_penalty 1.05
                and no_repeat_ngram_size 4.

        Raises:
            UsageError: an argument is invalid.
            ModelFileError: the chat settings in the model file are invalid.
        """
        self.sampling = SamplingParams(**CHAT_DEFAULTS).replace(**sampling)
        self.sequence = _engine.Sequence(model)  # rejects what is not a model
        self.model = model
        self.stop = stop_strings(stop)
        self.turns: list[Turn] = []
        self.n_dropped = 0
        self._answer: Answer | None = None
        self.format = self.made_format(format, user_name, bot_name, opening)
        self.seed = self.sequence.set_sampling(self.sampling, seed=seed, exempt=self.format.exempt)
        self.max_tokens = self.checked_max_tokens(
            min(MAX_TOKENS, self.sequence.n_ctx) if max_tokens is None else max_tokens
        )

    @classmethod
    def answer_to(
        cls,
        model: Model,
        messages: Sequence[Mapping[str, str]],
        *,
        continue_final_message: bool = False,
        **options: Any,
    ) -> Answer:
        """Answer a conversation that is given as a whole; see `Model.chat`."""
        opening, talk = turns_of(messages, "assistant" if continue_final_message else "user")
        if opening is not None:
            if options.get("opening") is not None:
                raise UsageError("messages: got a system message and an opening, expected one of them")
            options["opening"] = opening
        begun = talk.pop() if continue_final_message else None
        conversation = cls(model, **options)
        clean, answer = conversation.format.clean, conversation.format.answer
        pairs = zip(talk[:-1:2], talk[1::2], strict=True)
        conversation.turns = [Turn(clean(user), reply, answer(reply)) for user, reply in pairs]
        result = conversation.say(talk[-1])
        if begun is not None:
            result.continue_after(begun)
        return result

    # --- settings

    def default_settings(self) -> dict[str, float]:
        """Return the default settings by name. The seed has no default."""
        sampling = SamplingParams(**CHAT_DEFAULTS).as_dict()
        return {**sampling, "max_tokens": min(MAX_TOKENS, self.sequence.n_ctx)}

    def settings(self) -> dict[str, float]:
        """Return the current value of each setting that `set` can change, by name."""
        return {**self.sampling.as_dict(), "max_tokens": self.max_tokens, "seed": self.seed}

    def set(self, name: str, value: Any) -> None:
        """Change a sampling option, max_tokens or the seed, which restarts the generator. Raises UsageError."""
        self._finish()
        if name in SAMPLING_OPTIONS:
            self.sampling = self.sampling.replace(**{name: value})
        elif name == "seed":
            self.seed = self.sequence.set_sampling(self.sampling, seed=value)
        elif name == "max_tokens":
            self.max_tokens = self.checked_max_tokens(value)
        else:
            raise UsageError(f"setting {name!r}: expected one of {', '.join(self.settings())}")

    def checked_max_tokens(self, value: int) -> int:
        """Return the value as an int. Raises UsageError if it is not from 1 to n_ctx."""
        return whole_number("max_tokens", value, 1, self.sequence.n_ctx)

    def made_format(
        self,
        name: str | None = None,
        user_name: str | None = None,
        bot_name: str | None = None,
        opening: str | None = None,
    ) -> ChatFormat:
        """Return a format; arguments that are None come from the model file. Raises UsageError, ModelFileError."""
        made = chat_format(self.model, name, user_name, bot_name, opening)
        made.check_opening(self.sequence.n_ctx)
        return made

    # --- talk

    def say(self, message: str) -> Answer:
        """Say something to the model and return its answer.

        Args:
            message: text; in all formats but raw, each run of whitespace, including line breaks, becomes one space.

        Returns:
            An `Answer`, an iterator of pieces of text; its `text` is the whole answer. The turn is added when it ends.

        Raises:
            UsageError: the message is empty or not a string.
            ContextFullError: the message is longer than the context has room for.
        """
        if not isinstance(message, str):
            raise UsageError(f"message: got {message!r:.80}, expected text")
        self._finish()
        message = self.format.clean(message)
        if not message:
            raise UsageError("message: it is empty, expected some text")
        tokens, n_dropped = self._prompt(message, self.turns)
        return self._begin(message, tokens, n_dropped, None)

    def retry(self) -> Answer:
        """Discard the last answer and let the model answer again, differently. Raises UsageError: no turn yet."""
        self._finish()
        if not self.turns:
            raise UsageError("retry: there is no answer yet")
        last = self.turns[-1]
        tokens, n_dropped = self._prompt(last.user, self.turns[:-1])
        return self._begin(last.user, tokens, n_dropped, last)

    def undo(self) -> Turn:
        """Discard the last turn and return it. Raises UsageError: there is no turn."""
        self._finish()
        if not self.turns:
            raise UsageError("undo: there is no turn to discard")
        turn = self.turns.pop()
        self.n_dropped = min(self.n_dropped, len(self.turns))
        return turn

    def reset(self) -> None:
        """Drop all turns; settings and the opening stay."""
        if self._answer is not None:
            self._answer.close()  # its turn would be dropped
            self._answer = None
        self.turns.clear()
        self.n_dropped = 0

    def reset_to(
        self, format: ChatFormat, sampling: SamplingParams, seed: int, max_tokens: int, turns: list[Turn]
    ) -> None:
        """Switch to another conversation with the same model."""
        self.reset()
        self.seed = self.sequence.set_sampling(sampling, seed=seed, exempt=format.exempt)
        self.format, self.sampling, self.max_tokens, self.turns = format, sampling, max_tokens, turns

    def _finish(self) -> None:
        """End the last answer, so that its turn is made."""
        if self._answer is not None:
            self._answer.finish()
            self._answer = None  # only now: an interruption must not leave its turn to the garbage collector

    def _begin(self, message: str, tokens: list[int], n_dropped: int, replaced: Turn | None) -> Answer:
        n_more = max(0, n_dropped - self.n_dropped)
        self.n_dropped = n_dropped
        self._answer = Answer(self, message, tokens, n_more, replaced)
        return self._answer

    def _prompt(self, message: str, turns: list[Turn]) -> tuple[list[int], int]:
        """Return the ids of the prompt, and how many of the first turns it leaves out."""
        n_before = min(self.n_dropped, len(turns))
        tokens, n_dropped = prompt_of(self.format, turns[n_before:], message, self.sequence.n_ctx, self.max_tokens)
        return tokens, n_before + n_dropped
