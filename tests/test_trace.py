"""Traces: hidden states and attention match the reference, and recording them changes nothing."""

import numpy as np
import pytest
import reference
from random_models import open_sequence, random_tensors, write_model

from gpt2rt.errors import CancelledError, ContextFullError, UsageError
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=261, n_ctx=600, n_embd=30, n_head=3, n_layer=3)  # heads that do not fill a vector
TEXT = [(7 * i * i + 3 * i) % SHAPE.n_vocab for i in range(SHAPE.n_ctx)]
TENSORS = random_tensors(SHAPE)
SPLITS = [[5], [1, 1, 3], [4, 0, 16], [300], [255, 2], [10, 290], [256, 257]]  # a pass has 256 rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {weight type: path} of a random model."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: write_model(folder / f"{kind}.bin", SHAPE, TENSORS, kind) for kind in ("f32", "f16", "int8", "int4")}


@pytest.fixture(scope="module")
def expected():
    """Return logits, hidden states and attention of the whole text."""
    return reference.trace(TENSORS, SHAPE.n_head, TEXT)


def assert_near(found, expected, tolerance=1e-4):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    if found.size:
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def spans(split):
    """Return (begin, end) of each part."""
    ends = np.cumsum(split).tolist()
    return list(zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_trace_matches_the_reference(files, expected, split, threads):
    logits, hidden, attention = expected
    sequence = open_sequence(files["f32"], threads=threads)
    for begin, end in spans(split):
        trace = sequence.append(TEXT[begin:end], trace=True)
        assert_near(trace.hidden, hidden[:, begin:end])
        assert_near(trace.attention, attention[:, :, begin:end, :end])
    assert_near(sequence.logits, logits[sum(split) - 1])


@pytest.mark.parametrize("kind", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("split", [[7], [3, 297], [260, 1, 40]], ids=str)
def test_attention_is_a_distribution_over_the_tokens_so_far(files, kind, split):
    sequence = open_sequence(files[kind])
    for begin, end in spans(split):
        attention = sequence.append(TEXT[begin:end], trace=True).attention
        assert attention.shape == (SHAPE.n_layer, SHAPE.n_head, end - begin, end)
        assert (attention >= 0).all()
        assert np.abs(attention.sum(axis=-1, dtype=np.float64) - 1).max() < 1e-5
        for row in range(end - begin):
            assert not attention[:, :, row, begin + row + 1 :].any()


@pytest.mark.parametrize("kind", ["f32", "f16", "int8", "int4"])
def test_a_trace_depends_on_the_tokens_alone(files, kind):
    whole = open_sequence(files[kind]).append(TEXT[:300], trace=True)
    sequence = open_sequence(files[kind], threads=2)
    sequence.append(TEXT[:40])
    sequence.push(TEXT[40:45])
    trace = sequence.append(TEXT[45:300], trace=True)  # includes the pending tokens, first
    assert (trace.hidden == whole.hidden[:, 40:]).all()
    assert (trace.attention == whole.attention[:, :, 40:]).all()


@pytest.mark.parametrize("kind", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("n_logits", [0, 1, 5, 300])
def test_tracing_changes_no_bit_of_the_logits(files, kind, n_logits):
    found = []
    for trace in (False, True):
        sequence = open_sequence(files[kind])
        sequence.append(TEXT[:5])
        assert (sequence.append(TEXT[5:300], n_logits, trace=trace) is not None) == trace
        found.append((sequence.all_logits.tobytes(), sequence.logits.tobytes(), sequence.tokens))
    assert found[0] == found[1]


def test_the_input_of_a_layer_is_the_output_of_the_one_before(files):
    trace = open_sequence(files["f32"]).append(TEXT[:3], trace=True)
    assert (trace.hidden[0] == TENSORS["wte"][TEXT[:3]] + TENSORS["wpe"][:3]).all()


def test_a_trace_is_independent_of_the_sequence(files):
    sequence = open_sequence(files["f32"])
    first = sequence.append(TEXT[:3], trace=True)
    kept = first.hidden.copy()
    second = sequence.append(TEXT[3:6], trace=True)
    sequence.truncate(0)
    sequence.append(TEXT[6:20])
    assert (first.hidden == kept).all()
    second.hidden[:] = 0
    assert (first.hidden == kept).all()


def test_a_trace_of_no_tokens_is_empty(files):
    sequence = open_sequence(files["f32"])
    sequence.append(TEXT[:3])
    trace = sequence.append([], trace=True)
    assert trace.hidden.shape == (SHAPE.n_layer + 1, 0, SHAPE.n_embd)
    assert trace.attention.shape == (SHAPE.n_layer, SHAPE.n_head, 0, 3)


def test_invalid_tokens_are_refused_with_a_trace_too(files):
    sequence = open_sequence(files["f32"])
    sequence.append(TEXT[:3])
    for error, tokens in [(UsageError, "text"), (ContextFullError, TEXT)]:
        with pytest.raises(error):
            sequence.append(tokens, trace=True)
    sequence.cancel()
    with pytest.raises(CancelledError):
        sequence.append(TEXT[3:6], trace=True)
    assert sequence.tokens == TEXT[:3]
    assert (
        sequence.append(TEXT[3:6], trace=True).hidden
        == open_sequence(files["f32"]).append(TEXT[:6], trace=True).hidden[:, 3:]
    ).all()
