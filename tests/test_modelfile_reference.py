"""The core's layout and validation of model files against a plain reference, expected_modelfile.py, on random ones."""

import itertools
import mmap
import signal
import struct
import sys
import time

import expected_modelfile as expected
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model_file import NUMBERS, section, write

from gpt2rt import _modelfile, modelfile
from gpt2rt._kernels import Weights
from gpt2rt._modelfile import CheckedFile, Shape
from gpt2rt.errors import ModelFileError

WORDS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(0, 70),
    st.sampled_from([2**32 - 1, 2**31, 2**20, 2**20 + 1, 4096, 8192, 2**16 + 1, 2**14 + 1]),
)
SHAPES = st.builds(
    lambda n_vocab, n_ctx, head_dim, n_head, n_layer, type_and_group, is_tied: (
        modelfile.Hyperparameters(n_vocab, n_ctx, head_dim * n_head, n_head, n_layer),
        *type_and_group,
        is_tied,
    ),
    st.integers(1, 70_000) | st.just(1 << 20),
    st.integers(1, 2000) | st.just(1 << 16),
    st.integers(1, 130),
    st.integers(1, 30),
    st.integers(1, 5) | st.just(48),
    st.sampled_from([("f32", 0), ("f16", 0), *itertools.product(("int8", "int4"), (16, 32, 64, 128, 256))]),
    st.booleans(),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of valid files of each version of the format."""
    second = write(tmp_path_factory.mktemp("sound") / "small.bin").read_bytes()
    first = bytearray(second)
    struct.pack_into("<I", first, 8, 1)
    struct.pack_into("<I", first, 4092, expected.crc32c(first[:4092]))
    return bytes(first), second


def check(content):
    """Check that the core and the reference find the same wrong with a file."""
    content, found = bytes(content), None
    try:
        CheckedFile(content, "x")
    except ModelFileError as error:
        found = str(error).removeprefix("x: ")
    assert found == expected.problem(content)


# --- validation


@settings(deadline=None, max_examples=500)
@given(
    version=st.integers(0, 1),
    header=st.lists(st.tuples(st.integers(2, 33), WORDS), max_size=3),
    counts=st.lists(st.tuples(st.integers(0, 4), WORDS), max_size=2),
    cut=st.one_of(st.just(0), st.just(0), st.integers(1, 40_000)),
    has_valid_size=st.booleans(),
    has_valid_checksum=st.integers(0, 9).map(bool),
)
def test_a_damaged_file_gets_the_sentence_of_the_reference(
    sound, version, header, counts, cut, has_valid_size, has_valid_checksum
):
    content = bytearray(sound[version])
    for word, value in header:
        struct.pack_into("<I", content, 4 * word, value)
    for word, value in counts:
        struct.pack_into("<I", content, section(sound[1], "vocabulary")[0] + 4 * word, value)
    del content[len(content) - min(cut, len(content)) :]
    if len(content) >= 4096:
        if has_valid_size:
            struct.pack_into("<Q", content, 16, len(content))
        if has_valid_checksum:
            struct.pack_into("<I", content, 4092, expected.crc32c(content[:4092]))
    check(content)


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=20) | st.text(alphabet="\"'\\\t\n\r\0 ~aG\x89", max_size=9).map(str.encode))
def test_the_beginning_of_another_file_is_shown_as_in_python(content):
    for whole in (content, content.ljust(4096, b"x"), expected.MAGIC[:3] + content):
        check(whole)


@settings(deadline=None, max_examples=100)
@given(offset=st.integers(0, 2**64 - 1), length=st.integers(0, 2**64 - 1), index=st.integers(0, 2))
def test_any_offset_and_length_of_a_section_are_shown_exactly(sound, offset, length, index):
    name = _modelfile.SECTIONS[index]
    for start in (offset, section(sound[1], name)[0]):
        content = bytearray(sound[1])
        struct.pack_into("<QQ", content, 64 + 24 * index, start, length)
        struct.pack_into("<I", content, 4092, expected.crc32c(content[:4092]))
        check(content)


# --- the layout


@settings(deadline=None, max_examples=100)
@given(shape=SHAPES)
def test_the_tensors_of_any_shape_are_those_of_the_reference(shape):
    found = [(t.name, t.shape, t.is_matrix, t.offset, t.length) for t in modelfile.tensor_table(*shape)]
    assert found == expected.tensors(*shape)


@settings(deadline=None, max_examples=100)
@given(
    n_vocab=st.integers(1, 1 << 20),
    counts=st.tuples(*[st.integers(0, 1 << 21)] * 3, st.integers(0, 1 << 28), st.integers(0, 19)),
)
def test_the_tables_of_a_vocabulary_are_those_of_the_reference(n_vocab, counts):
    tables = _modelfile.vocabulary_tables(n_vocab, counts)
    assert sum(tables[-1][1:]) == expected.vocabulary_length(n_vocab, *counts[1:])
    assert all(offset % 64 == 0 for _, offset, _ in tables)
    assert struct.unpack("<5I44x", _modelfile.vocabulary_header(counts)) == counts


@pytest.mark.parametrize(("weight_type", "group_size", "is_tied"), [("f32", 0, True), ("int4", 32, False)])
def test_a_written_header_has_the_fields_of_the_format(weight_type, group_size, is_tied):
    sections = [(4096, 100, 1), (8192, 2**33, 2), (2**34, 5, 2**32 - 1)]
    header = _modelfile.header(Shape(NUMBERS, weight_type, group_size, is_tied), sections)
    numbers = (*NUMBERS, expected.TYPES.index(weight_type), group_size, int(not is_tied))
    fields = b"".join(struct.pack("<QQII", *one, 0) for one in sections)
    start = struct.pack("<8sIIQ8I8x", expected.MAGIC, 2, 4096, 2**34 + 5, *numbers) + fields
    assert header[:4092] == start.ljust(4092, b"\0")
    assert header[4092:] == struct.pack("<I", expected.crc32c(header[:4092]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_type": "int5"}, r"^weight type 'int5': expected one of f32, f16, int8, int4$"),
        ({"group_size": 48}, r"^group size 48, expected one of \(16, 32, 64, 128, 256\)$"),
        ({"weight_type": "f16"}, r"^group size 64, expected 0 for f16$"),
        ({"hyperparameters": NUMBERS._replace(n_layer=1025)}, r"^n_layer is 1025, expected 1 to 1024$"),
        ({"hyperparameters": NUMBERS._replace(n_head=1 << 80)}, r"^n_head is \d+, expected 1 to 1024$"),
    ],
)
def test_an_invalid_shape_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Shape(**{"hyperparameters": NUMBERS, "weight_type": "int8", "group_size": 64, **change})


@pytest.mark.parametrize("n", [0, -1, 1 << 63, -(1 << 63), 1 << 64, 10**30, -(10**30)])
def test_a_hyperparameter_of_any_size_is_shown_exactly(n):
    assert NUMBERS._replace(n_embd=n).problem() == f"n_embd is {n}, expected 1 to 16384"


@pytest.mark.parametrize(
    "arguments", [(1, 1, "int8", 0), (1, 1, "int4", -16), (1, 1, "f64", 0), (-1, 1, "f32", 0), (1, 1 << 40, "f32", 0)]
)
def test_the_length_of_an_invalid_matrix_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        modelfile.matrix_length(*arguments)


@pytest.mark.parametrize(("extra", "start"), [(1, 0), (-1, 0), (0, 1)])
def test_weights_of_another_length_or_not_aligned_are_refused(extra, start):
    shape = Shape(NUMBERS, "f32", 0)
    last = shape.tensors()[-1]
    content = memoryview(bytes(last.offset + last.length + extra + start))[start:]
    with pytest.raises(ValueError, match=r"^section: got \d+ bytes, expected \d+, aligned to 4$"):
        Weights(content, shape)


# --- verification


class StoppedError(Exception):
    pass


@pytest.mark.skipif(sys.platform == "win32", reason="no timers that send signals there")
def test_a_checksum_is_interrupted_by_a_signal_handler_before_its_end():
    shape = Shape(modelfile.Hyperparameters(1 << 18, 1, 256, 1, 1), "f32", 0)
    last, vocabulary = shape.tensors()[-1], vocabulary_of(1 << 18)
    begin = -(-(8192 + len(vocabulary)) // 4096) * 4096
    sections = [(4096, 2, 0), (8192, len(vocabulary), 0), (begin, last.offset + last.length, 0)]
    # Pages of a private mapping that are only read take no memory.
    content = mmap.mmap(-1, begin + last.offset + last.length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    content[:4096] = _modelfile.header(shape, sections)
    content[8192 : 8192 + len(vocabulary)] = vocabulary
    file = CheckedFile(content, "x")
    duration = min(seconds(file.checksum, "weights") for _ in range(3))
    assert any(seconds(interrupted, file, duration / 4) < duration / 2 for _ in range(30))


def vocabulary_of(n_vocab):
    """Return a vocabulary section with valid counts, without merges."""
    counts = (0, 16, 0, 0, 0)
    _, offset, length = _modelfile.vocabulary_tables(n_vocab, counts)[-1]
    return _modelfile.vocabulary_header(counts).ljust(offset + length, b"\0")


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def interrupted(file, delay):
    """Compute a checksum until a signal handler raises after `delay` seconds, or to its end."""

    def handler(*_):
        raise StoppedError

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        file.checksum("weights")
    except StoppedError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
