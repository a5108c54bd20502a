"""Run with failing_malloc.c preloaded: makes each allocation of each operation fail once, and prints the number.

python failed_allocations.py MODEL OPERATION
"""

import ctypes
import itertools
import os
import sys

import numpy as np
from expected_sequence import assert_as_fresh
from token_tables import tokenizer_with

import gpt2rt
from gpt2rt._chat import ChatFormat, ReplyText, earlier_answers, kept_answer, prompt_of, words_of
from gpt2rt._engine import Engine, Event
from gpt2rt._tokenizer import StopStrings, StreamDecoder, TextStream
from gpt2rt.chat import Turn

MODEL, OPERATION = sys.argv[1:]
TEXT = [(7 * i * i + 3 * i) % 256 for i in range(400)]
SAMPLING = gpt2rt.SamplingParams(repetition_penalty=1.3)
LIBRARY = ctypes.CDLL(None)
OBJECTS_FAIL = os.environ.get("PYTHONMALLOC") == "malloc"  # small Python objects are allocations too
REPORTING = (
    "score",
    "score_after_pending",
    "step",
    "step_with_prompt_logprobs",
    "engine",
)  # these create their results at the end
OPERATIONS = {  # on the first sequence, or on all of them with an engine
    "append": lambda all, engine: all[0].append(TEXT[:40]),
    "append_chunk_of_many_logits": lambda all, engine: all[0].append(TEXT[:200], 300),
    "append_traced": lambda all, engine: all[0].append(TEXT[:50], trace=True),
    "push": lambda all, engine: all[0].push(TEXT),
    "score": lambda all, engine: all[0].score(TEXT[:9]),
    "score_after_pending": lambda all, engine: all[1].score(TEXT[:9]),
    "fork": lambda all, engine: all[0].fork(),
    "fork_of_a_prefix": lambda all, engine: all[2].fork(20),
    "logits": lambda all, engine: all[0].logits,
    "logits_again": lambda all, engine: all[3].logits,
    "set_sampling": lambda all, engine: all[0].set_sampling(
        SAMPLING, seed=9, history=TEXT, exempt=TEXT[:30], stop_tokens=[1, 2], logprobs=3, logit_bias={1: 2.0}
    ),
    "guess": lambda all, engine: all[0].guess(TEXT[:7]),
    "step": lambda all, engine: engine.step(all[:4]),
    "step_with_prompt_logprobs": lambda all, engine: engine.step(all[4:]),
    "engine": lambda all, engine: Engine(all[0].model).step(all[:4]),
    "encode": lambda all, engine: TOKENIZER.encode("é" + "a" * 1000),
    "encode_special": lambda all, engine: TOKENIZER.encode("a<b>a", special=True),
    "decode": lambda all, engine: [TOKENIZER.decode([256] * 5 + [97])],
    "stream": lambda all, engine: fed(StreamDecoder(TOKENIZER), [0xF0, 256, 97]),
    "stop_strings": lambda all, engine: fed(StopStrings(["a" * 200 + "c", "b"]), ["a" * 600, "d" * 200, "ab"]),
    "text_stream": lambda all, engine: given(TextStream(TOKENIZER, "d" * 200), STREAM_STEPS),
    "reply_text": lambda all, engine: given(ReplyText(True, 0.7, ["hi"]), REPLY_PIECES),
    "words": lambda all, engine: [words_of("É " * 400)],
    "chat_format": lambda all, engine: ids_of(ChatFormat(TOKENIZER, 512, TEMPLATE, {"user_name": "Ann"})),
    "chat_format_of_a_scene": lambda all, engine: ids_of(ChatFormat(TOKENIZER, 2048, {}, {})),
    "chat_clean": lambda all, engine: [FORMAT.clean("a  b" * 100)],
    "chat_prompt": lambda all, engine: FORMAT.prompt("a \ud83d\ude42"),
    "chat_answer": lambda all, engine: FORMAT.answer("a"),
    "prompt_of": lambda all, engine: list(prompt_of(FORMAT, TURNS * 9, "Hello", 512, 100)),
    "earlier_answers": lambda all, engine: sorted(earlier_answers(FORMAT, TURNS * 9, "Hi", "A long message here")),
    "kept_answer": lambda all, engine: list(kept_answer(TOKENIZER, [*b"abcde", 257], ["e<"], False, True)),
}


TOKENIZER = tokenizer_with([b"long " * 200, b"<b>"], special=[257], flags=1)  # a space comes before a text
FORMAT = ChatFormat(TOKENIZER, 512, {}, {"opening": "An opening"})
TEMPLATE = {"format": "template", "template": "a{user}<b>b{bot}<b>", "opening": "User: Hi"}
TURNS = [Turn("Hi", "Hello " * 5, [257] * 20)]
STREAM_STEPS = [([0xF0, 256], False), ([256] * 3 + [97] * 300, True)]
REPLY_PIECES = [(" Hi", None), ("!" * 100, None), (" there", None), ("", "stop")]


def ids_of(chat):
    """Return the ids that a format has."""
    return [*chat.opening_tokens, *chat.closing_tokens, *sorted(chat.exempt)]


def given(subject, items):
    """Give items to a stream or a reply, and return what it accepts; a failure leaves it unchanged."""
    results = [None] * len(items)
    for i, item in enumerate(items):
        try:
            results[i] = subject.accept(*item)
        except MemoryError:
            results[i:] = [subject.accept(*one) for one in items[i:]]
            assert results == EXPECTED[OPERATION]
            raise
    EXPECTED.setdefault(OPERATION, results)
    return results


EXPECTED = {}  # {operation: what the first call returned}


def fed(subject, items):
    """Feed items to a decoder or a filter, and return its texts; an item that fails leaves it unchanged."""
    texts = []
    for i, item in enumerate(items):
        try:
            text = subject.feed(item)
        except MemoryError:
            texts += map(subject.feed, items[i:])
            assert [*texts, subject.finish()] == FED[OPERATION]
            raise
        texts.append(text)
    return [*texts, subject.finish()]


FED = {
    "stream": ["", "\ufffd" + "long " * 200, "a", ""],
    "stop_strings": ["a" * 400, "a" * 200 + "d" * 200, "a", ""],
}


def prepared():
    """Return sequences of a model without idle engines, and an engine that has not run yet."""
    model = gpt2rt.open_model(MODEL, n_threads=1)
    sequences = [model.sequence() for _ in range(6)]
    for sequence, n in zip(sequences, (9, 2, 20, 3, 5, 5), strict=True):
        sequence.push(TEXT[:n])
    Engine(model).step(sequences)
    sequences[0].set_sampling(SAMPLING, seed=1, history=TEXT[:3], exempt=[5], logprobs=2, logit_bias={7: 1.5})
    sequences[1].push(TEXT[:60])
    sequences[1].set_sampling(SAMPLING, seed=2)
    sequences[2].push(TEXT[:1])
    sequences[3].push(TEXT[3:4])
    Engine(model).step(sequences[3:4])
    sequences[3].truncate(3)  # its logits are not kept
    sequences[4].set_sampling(None, seed=4, prompt_logprobs=3)
    sequences[4].push(TEXT[:90])
    sequences[5].set_sampling(SAMPLING, seed=3, prompt_logprobs=0)
    sequences[5].push(TEXT[:9])
    return [sequence.fork() for sequence in sequences], Engine(model)


def state(sequences):
    return [
        (
            *(one.tokens, one.pending, one.history, one.sampling, one.seed, one.n_logits, one.all_logits.tobytes()),
            *(one.prompt_logprobs, one.prompt_top_logprobs),
        )
        for one in sequences
    ]


def outcome(result):
    """Return the result of a call in a form that can be compared."""
    if isinstance(result, list) and result and isinstance(result[0], Event):
        return [(event.tokens, event.logprobs, event.top_logprobs) for event in result]
    if isinstance(result, np.ndarray):
        return result.tobytes()
    return result if isinstance(result, list) else None


def main():
    call = OPERATIONS[OPERATION]
    sequences, engine = prepared()
    before = state(sequences)
    expected = outcome(call(sequences, engine))
    after = state(sequences)
    for n in itertools.count():
        sequences, engine = prepared()
        has_raised = False
        LIBRARY.failing_malloc_arm(ctypes.c_long(n), ctypes.c_size_t(0))
        try:
            found = call(sequences, engine)
        except MemoryError:
            has_raised = True
        has_failed = LIBRARY.failing_malloc_disarm()
        if not has_raised:
            assert outcome(found) == expected, n
            assert state(sequences) == after, n
        else:
            assert has_failed, n
            found = state(sequences)
            for sequence in sequences:
                assert_as_fresh(sequence)
            if OBJECTS_FAIL and OPERATION in REPORTING and found == after:
                continue
            assert found == before, n
            assert outcome(call(sequences, engine)) == expected, n
            assert state(sequences) == after, n
        if not has_failed:
            break
    print(n)


main()
