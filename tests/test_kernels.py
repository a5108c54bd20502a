"""The kernels: what they compute, and that the result depends only on the file and the tokens."""

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import reference
from random_models import ISAS, evaluate_together, open_sequence, random_tensors, write_model
from tiles import unpack

from gpt2rt._engine import Engine
from gpt2rt._kernels import available_isas, evaluate, read_bytes
from gpt2rt._modelfile import crc32c
from gpt2rt.converter._pack import pack_rows
from gpt2rt.errors import ContextFullError, UsageError, VocabularyError
from gpt2rt.modelfile import Hyperparameters, ModelFile

# Widths that are not multiples of a tile or a group, one head, odd heads, vocabularies and contexts of odd sizes.
SHAPES = [
    Hyperparameters(n_vocab=257, n_ctx=17, n_embd=48, n_head=1, n_layer=1),
    Hyperparameters(n_vocab=300, n_ctx=100, n_embd=96, n_head=2, n_layer=3),
    Hyperparameters(n_vocab=256, n_ctx=33, n_embd=30, n_head=3, n_layer=2),
    Hyperparameters(n_vocab=263, n_ctx=40, n_embd=7, n_head=1, n_layer=1),
    Hyperparameters(n_vocab=272, n_ctx=300, n_embd=64, n_head=4, n_layer=2),
]
TYPES = ["f32", "f16", "int8", "int4"]


def shape_name(hyperparameters):
    return "x".join(map(str, hyperparameters))


def tokens_for(hyperparameters, seed=1):
    return np.random.default_rng(seed).integers(0, hyperparameters.n_vocab, hyperparameters.n_ctx).tolist()


def logits_of(sequence):
    return sequence.logits.astype(np.float64)


def accepted(sequence, *pieces):
    for piece in pieces:
        sequence.append(piece)
    return sequence.logits.tobytes()


@pytest.fixture(scope="module", params=SHAPES, ids=shape_name)
def shape(request):
    return request.param


@pytest.fixture(scope="module", params=TYPES)
def model(request, shape, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / f"{request.param}.bin"
    return shape, write_model(path, shape, random_tensors(shape), request.param)


# --- results


def test_f32_logits_over_a_full_context_equal_the_reference(shape, tmp_path):
    tensors, tokens = random_tensors(shape), tokens_for(shape)
    expected = reference.logits(tensors, shape.n_head, tokens)
    sequence = open_sequence(write_model(tmp_path / "m.bin", shape, tensors, "f32"))
    for position, token in enumerate(tokens):
        sequence.append([token])
        assert np.abs(logits_of(sequence) - expected[position]).max() <= 1e-4 * np.abs(expected[position]).max()


@pytest.mark.parametrize(("weight_type", "tolerance"), [("f16", 2e-3), ("int8", 4e-2), ("int4", 4e-1)])
def test_smaller_types_stay_close_to_the_reference(weight_type, tolerance, shape, tmp_path):
    # f16 keeps 11 bits of a weight; int8 keeps 7 bits, relative to the largest of a group, of a weight and of an
    # input; errors grow as sqrt(n). int4 keeps 3 bits: each matrix adds an error of 8%, and over the seeds at most 0.3
    # was seen.
    tensors, tokens = random_tensors(shape), tokens_for(shape)
    expected = reference.logits(tensors, shape.n_head, tokens)[-1]
    sequence = open_sequence(write_model(tmp_path / "m.bin", shape, tensors, weight_type))
    sequence.append(tokens)
    assert np.abs(logits_of(sequence) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("group_size", [16, 32, 64, 256])
@pytest.mark.parametrize("weight_type", ["int8", "int4"])
def test_quantized_logits_match_the_values_in_the_file(weight_type, group_size, shape, tmp_path):
    # The remaining error is that of the 7-bit inputs.
    tensors, tokens = random_tensors(shape), tokens_for(shape)
    path = write_model(tmp_path / "m.bin", shape, tensors, weight_type, group_size)
    model = ModelFile(path)
    for tensor in model.tensors:
        if tensor.is_matrix:
            content = model.sections["weights"][tensor.offset : tensor.offset + tensor.length]
            values, _ = unpack(content, *tensor.shape, weight_type, group_size)
            tensors[tensor.name] = values if tensor.name == "wte" else values.T[None]
    expected = reference.logits(tensors, shape.n_head, tokens)[-1]
    sequence = open_sequence(path)
    sequence.append(tokens)
    assert np.abs(logits_of(sequence) - expected).max() <= 4e-2 * np.abs(expected).max()


@pytest.mark.parametrize("group_size", [16, 32, 128, 256])
@pytest.mark.parametrize(("weight_type", "tolerance"), [("int8", 4e-2), ("int4", 4e-1)])
def test_group_sizes_agree_with_the_reference(weight_type, tolerance, group_size, tmp_path):
    shape = SHAPES[1]
    tensors, tokens = random_tensors(shape), tokens_for(shape)
    expected = reference.logits(tensors, shape.n_head, tokens)[-1]
    path = write_model(tmp_path / "m.bin", shape, tensors, weight_type, group_size)
    results = {accepted(open_sequence(path, isa), tokens) for isa in ISAS}
    assert len(results) == 1
    assert np.abs(np.frombuffer(results.pop(), np.float32) - expected).max() <= tolerance * np.abs(expected).max()


def apply(function, isa, x, y=None, z=None):
    x = np.asarray(x, np.float32)
    y, z = (np.zeros_like(x) if values is None else np.asarray(values, np.float32) for values in (y, z))
    return np.frombuffer(evaluate(function, x.tobytes(), y.tobytes(), z.tobytes(), isa), np.float32)


@pytest.mark.parametrize("isa", ISAS)
def test_exp_matches_libm(isa):
    x = np.linspace(-87, 88, 1_000_000).astype(np.float32)
    assert np.abs(apply("exp", isa, x) / np.exp(x.astype(np.float64)) - 1).max() < 1.5 * 2**-23


@pytest.mark.parametrize("isa", ISAS)
def test_gelu_is_the_tanh_form(isa):
    x = np.concatenate([np.linspace(-30, 30, 400_000), np.linspace(-1e-3, 1e-3, 400_000), [1e30, -1e30, 0, -0.0] * 4])
    expected = reference.gelu(x)
    assert (np.abs(apply("gelu", isa, x) - expected) <= 1e-6 + 1e-6 * np.abs(expected)).all()


@pytest.mark.parametrize("function", ["exp", "gelu"])
def test_functions_have_the_same_bits_on_every_isa(function):
    random = np.random.default_rng(2)
    x = np.concatenate([random.standard_normal(160_000) * 20, random.standard_normal(160_000) * 1e-39])
    assert len({apply(function, isa, x).tobytes() for isa in ISAS}) == 1


def exact_fma(x, y, z):
    """Return x * y + z of f32, rounded once: exact fractions choose between the two nearest f32."""
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    guess = np.float32(float(x) * float(y) + float(z))
    nearest = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(nearest, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.uint32)) & 1))


@pytest.mark.parametrize("isa", ISAS)
def test_fma_rounds_once(isa):
    # Rounding twice fails for sums so close to the midpoint of two f32 that a double can't represent the difference,
    # and for subnormal sums.
    random = np.random.default_rng(5)
    n = 4096
    z = (1 + random.integers(0, 2**23, n) * 2.0**-23) * random.choice([-1, 1], n) * 2.0 ** random.integers(-3, 4, n)
    near = random.integers(1, 5, n) * 2.0**-23
    x = (1 + near) * random.choice([-1, 1], n)
    y = (1 - near) * np.exp2(np.floor(np.log2(np.abs(z))) - 24)
    x[:1024], y[:1024], z[:1024] = (random.standard_normal((3, 1024)).T * [1e-20, 1e-20, 1e-40]).T
    x, y, z = (values.astype(np.float32) for values in (x, y, z))
    expected = np.array([exact_fma(*values) for values in zip(x, y, z, strict=True)])
    assert (apply("fma", isa, x, y, z).view(np.uint32) == expected.view(np.uint32)).all()


def test_f16_conversions_match_numpy():
    values = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # from 0 to the largest
    between = np.nextafter(values, np.float32(1e9), dtype=np.float32)
    middle = (values[:-1] + values[1:]) / 2
    x = np.concatenate([values, between[:-1], -between[:-1], middle])
    x = x[: len(x) // 16 * 16].reshape(16, -1)
    packed = bytearray(-(-x.shape[1] * 32 // 64) * 64)
    pack_rows(np.ascontiguousarray(x), packed, False, "f16", 0, 0, 16)
    assert (x.astype(np.float16).view(np.uint16) == np.frombuffer(packed, np.uint16)[: x.size].reshape(-1, 16).T).all()


@pytest.mark.parametrize("isa", ISAS)
def test_reading_memory_reads_every_byte_once(isa):
    content = np.random.default_rng(6).bytes(300_000)  # several strips of tiles
    for n in (0, 1, 7, 8, 63, 64, 65, 65_535, 65_536, 65_537, 300_000):
        words = np.frombuffer(content[:n] + bytes(-n % 8), np.uint64)
        assert read_bytes(content[:n], isa) == int(words.sum(dtype=np.uint64))


# --- the same bits, for odd shapes (tests/test_same_bits.py has all circumstances together)


def test_logits_do_not_depend_on_the_instruction_set(model):
    shape, path = model
    results = {accepted(open_sequence(path, isa), tokens_for(shape)) for isa in ISAS}
    assert len(results) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_logits_do_not_depend_on_threads_or_splits(model, isa):
    shape, path = model
    tokens = tokens_for(shape)
    expected = accepted(open_sequence(path, isa), tokens)
    for threads, piece in ((2, 1), (3, 7), (8, 64), (2, 1000)):
        pieces = [tokens[i : i + piece] for i in range(0, len(tokens), piece)]
        assert accepted(open_sequence(path, isa, threads), *pieces) == expected


@pytest.mark.parametrize("isa", ISAS)
def test_logits_do_not_depend_on_truncating_or_forking(model, isa):
    shape, path = model
    tokens, others = tokens_for(shape), tokens_for(shape, seed=3)
    middle = len(tokens) // 2
    expected = accepted(open_sequence(path, isa), tokens)
    sequence = open_sequence(path, isa, 2)
    sequence.append(tokens[:middle] + others[middle:])
    sequence.truncate(middle)
    fork = sequence.fork()
    assert accepted(sequence, tokens[middle:]) == expected
    assert len(fork) == middle
    assert accepted(fork, others[middle:]) != expected
    fork.truncate(middle)
    assert accepted(fork, tokens[middle:-1]) != expected
    assert accepted(fork.fork(), tokens[-1:]) == expected
    assert accepted(fork, tokens[-1:]) == expected
    assert fork.fork().logits.tobytes() == expected


@pytest.mark.parametrize("isa", ISAS)
def test_logits_do_not_depend_on_what_else_is_in_a_batch(model, isa):
    shape, path = model
    texts = [tokens_for(shape, seed)[: shape.n_ctx - 3 * seed] for seed in range(5)]
    expected = [accepted(open_sequence(path, isa), text) for text in texts]
    for threads in (1, 3):
        lead = open_sequence(path, isa, threads)
        sequences = [lead] + [lead.fork() for _ in texts[1:]]
        evaluate_together(sequences, [text[:-2] for text in texts])  # prompts; long ones take several passes
        evaluate_together(sequences, [text[-2:-1] for text in texts])  # one token each
        assert [len(sequence) for sequence in sequences] == [len(text) - 1 for text in texts]
        evaluate_together(sequences[::-1], [text[-1:] for text in texts[::-1]])
        assert [sequence.logits.tobytes() for sequence in sequences] == expected


@pytest.mark.parametrize("isa", ISAS)
def test_logits_of_several_last_tokens_are_those_of_each(model, isa):
    shape, path = model
    tokens = tokens_for(shape)[:12]
    expected = []
    sequence = open_sequence(path, isa, 2)
    for token in tokens:
        sequence.append([token])
        expected.append(sequence.logits.tobytes())
    sequence.truncate(0)
    sequence.append(tokens, 5)
    assert [row.tobytes() for row in sequence.all_logits] == expected[-5:]
    sequence.truncate(10)
    assert sequence.n_logits == 3
    assert [row.tobytes() for row in sequence.all_logits] == expected[7:10]


def test_a_step_is_refused_as_a_whole_before_anything_changes(model):
    _, path = model
    lead = open_sequence(path)
    sequences = [lead, lead.fork(), open_sequence(path)]
    for sequence in sequences:
        sequence.push([1])
    engine = Engine(lead.model)
    with pytest.raises(UsageError, match="in use, by another thread or twice"):
        engine.step([lead, lead])
    with pytest.raises(UsageError, match="belongs to another model"):
        engine.step(sequences)
    with pytest.raises(UsageError, match="expected sequences"):
        engine.step([lead, None])
    assert [len(sequence) for sequence in sequences] == [0, 0, 0]
    engine.step(sequences[:2])
    assert [len(sequence) for sequence in sequences] == [1, 1, 0]


def test_logits_do_not_depend_on_other_sequences_in_other_threads(model):
    shape, path = model
    tokens = [tokens_for(shape, seed) for seed in range(4)]
    expected = [accepted(open_sequence(path), t) for t in tokens]
    first = open_sequence(path, threads=2)
    sequences = [first] + [first.fork() for _ in tokens[1:]]  # one thread pool: a caller that finds it busy runs alone
    results = [None] * len(sequences)

    def run(i):
        for _ in range(5):
            sequences[i].truncate(0)
            results[i] = accepted(sequences[i], tokens[i])

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(sequences))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_process_builds_its_own_thread_pool(model):
    shape, path = model
    tokens = tokens_for(shape)
    sequence = open_sequence(path, threads=3)
    expected = accepted(sequence, tokens)
    child = os.fork()
    if child == 0:
        sequence.truncate(0)
        os._exit(0 if accepted(sequence, tokens) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sequence.truncate(0)
    assert accepted(sequence, tokens) == expected


# --- limits and interruptions


def test_a_full_context_is_refused_before_anything_changes(model):
    shape, path = model
    sequence = open_sequence(path)
    sequence.append([1] * (shape.n_ctx - 1))
    with pytest.raises(
        ContextFullError, match=f"context: {shape.n_ctx - 1} tokens and 2 more, but the model has {shape.n_ctx}"
    ):
        sequence.append([1, 2])
    assert len(sequence) == shape.n_ctx - 1
    sequence.append([2])


@pytest.mark.parametrize("bad", [-1, 10**6, 2**63, -(2**70)])
def test_a_token_out_of_range_is_refused_before_anything_changes(model, bad):
    shape, path = model
    sequence = open_sequence(path)
    with pytest.raises(VocabularyError, match=f"token {bad}: out of range, expected 0 to {shape.n_vocab - 1}"):
        sequence.append([0, bad])
    assert len(sequence) == 0


def test_logits_before_any_token_are_refused(model):
    with pytest.raises(UsageError, match="logits: the sequence is empty"):
        open_sequence(model[1]).logits  # noqa: B018


def test_an_unavailable_instruction_set_is_refused(model, monkeypatch):
    with pytest.raises(UsageError, match=r"instruction set 'mmx': not available, expected one of .*portable"):
        open_sequence(model[1], "mmx")
    monkeypatch.setenv("GPT2RT_ISA", "z80")
    with pytest.raises(UsageError, match="instruction set 'z80'"):
        open_sequence(model[1])
    monkeypatch.setenv("GPT2RT_ISA", "portable")
    assert open_sequence(model[1]).runtime.weights.isa == "portable"
    assert available_isas()[-1] == "portable"


@pytest.mark.skipif("amx" in ISAS, reason="this processor has AMX, and all tests run it")
def test_amx_is_refused_on_a_processor_without_it(model, monkeypatch):
    with pytest.raises(UsageError, match=r"instruction set 'amx': not available, expected one of .*portable"):
        open_sequence(model[1], "amx")
    monkeypatch.setenv("GPT2RT_ISA", "amx")
    with pytest.raises(UsageError, match="instruction set 'amx': not available"):
        open_sequence(model[1])


def test_amx_is_never_the_default():
    assert "amx" not in available_isas()


INTERRUPTED = """
import signal, sys
sys.path.insert(0, {tests!r})
from random_models import open_sequence
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
sequence = open_sequence({path!r}, "portable", 2)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    while True:
        sequence.append([1] * 256)
        sequence.truncate(0)
except KeyboardInterrupt:
    sequence.truncate(0)
    sequence.append([1, 2, 3])
    print("interrupted", len(sequence))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_signal_ends_a_pass_and_the_state_stays_usable(tmp_path):
    shape = Hyperparameters(n_vocab=256, n_ctx=300, n_embd=512, n_head=8, n_layer=8)  # a pass takes seconds, portable
    path = write_model(tmp_path / "m.bin", shape, random_tensors(shape), "f32")
    code = INTERRUPTED.format(tests=os.path.dirname(__file__), path=str(path))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "interrupted 3\n", result.stderr


def test_a_sequence_used_by_two_threads_is_refused_not_corrupted(tmp_path):
    shape = Hyperparameters(n_vocab=256, n_ctx=300, n_embd=256, n_head=8, n_layer=8)
    sequence = open_sequence(write_model(tmp_path / "m.bin", shape, random_tensors(shape), "f32"), "portable")
    begun, refused = threading.Event(), []

    def run():
        begun.set()
        while not refused:
            sequence.append([1] * 100)
            sequence.truncate(0)

    worker = threading.Thread(target=run)
    worker.start()
    begun.wait()
    try:
        while not refused:
            try:
                _ = sequence.logits if len(sequence) else None
                sequence.fork()
            except UsageError as error:
                if "in use" in str(error):
                    refused.append(error)
    finally:
        refused.append(None)
        worker.join()
    sequence.append([1] * 100)
    assert len(sequence) == 100


# --- checksums


def test_crc32c_matches_the_rfc():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_crc32c_continues_wherever_the_bytes_are_split():
    text = np.random.default_rng(4).bytes(50_000)  # long enough for the combined stretches
    whole = crc32c(text)
    assert whole == slow_crc32c(text)
    for cut in (0, 1, 7, 8, 4095, 12288, 12289, 49_999):
        assert crc32c(text[cut:], crc32c(text[:cut])) == whole


def slow_crc32c(text):
    sum_ = 0xFFFFFFFF
    for byte in text:
        sum_ ^= byte
        for _ in range(8):
            sum_ = sum_ >> 1 ^ (0x82F63B78 if sum_ & 1 else 0)
    return sum_ ^ 0xFFFFFFFF
