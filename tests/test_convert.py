"""Conversion of a checkpoint to a model file: its content, its memory use, and that a failure leaves no files."""

import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import SMALL, data_file, make_checkpoint, random_tensors, write_beside, write_bundle, write_checkpoint
from tiles import unpack

from gpt2rt.converter import convert
from gpt2rt.converter._pack import pack_rows
from gpt2rt.converter.quantize import CHUNK, Quantization, packed_chunks
from gpt2rt.errors import CheckpointError, ModelFileError, UsageError, VocabularyError
from gpt2rt.modelfile import DEFAULT_GROUP_SIZE, Hyperparameters, ModelFile, matrix_length

TALK = pathlib.Path(__file__).parents[2] / "shared" / "talk"

PACKINGS = [("f32", 0), ("f16", 0), ("int8", 16), ("int8", 64), ("int4", 16), ("int4", 32), ("int4", 256)]
HALF_A_STEP = 0.5 * (1 + 127 * 2.0**-22)  # with room for two f32 roundings near the largest value


@pytest.fixture
def source(tmp_path):
    write_checkpoint(tmp_path / "small")
    return tmp_path / "small"


def matrix(tensors, name):
    """Return a tensor of the checkpoint as (n_out, n_in)."""
    array = tensors[f"model/{name}"]
    return array if name == "wte" else array[0].T


# Packing


@pytest.mark.parametrize("inputs_first", [True, False])
@pytest.mark.parametrize("n_in", [1, 3, 48, 65])
@pytest.mark.parametrize("n_out", [1, 15, 17, 50257])
@pytest.mark.parametrize(("weight_type", "group_size"), PACKINGS)
def test_packed_matrix_holds_its_values(n_out, n_in, inputs_first, weight_type, group_size):
    w = np.random.default_rng(n_out * n_in).standard_normal((n_out, n_in), np.float32)
    out = bytearray(matrix_length(n_out, n_in, weight_type, group_size))
    stored = np.ascontiguousarray(w.T) if inputs_first else w
    largest, total, is_finite = pack_rows(stored, out, inputs_first, weight_type, group_size, 0, n_out)
    values, scales = unpack(out, n_out, n_in, weight_type, group_size)
    error = np.abs(values - w)
    assert is_finite
    if weight_type == "f32":
        assert values.tobytes() == w.tobytes()
        assert (largest, total) == (0, 0)
        return
    if weight_type == "f16":
        assert np.array_equal(values, w.astype(np.float16).astype(np.float32))
    elif weight_type == "int8":
        assert (error <= scales * HALF_A_STEP).all()
    else:
        assert np.array_equal(values, nearest4(w, scales) * scales)
    assert largest == pytest.approx(error.max(), rel=1e-4)
    assert total == pytest.approx(error.sum(dtype=np.float64), rel=1e-3)


def packed(w, weight_type, group_size):
    """Return (values, scales) of w (n_out, n_in) after packing."""
    out = bytearray(matrix_length(*w.shape, weight_type, group_size))
    pack_rows(w, out, False, weight_type, group_size, 0, len(w))
    return unpack(out, *w.shape, weight_type, group_size)


def nearest4(w, scales):
    """Return the nearest 4-bit values of w: -8 to 7 times the scale."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(w * inverse), -8, 7)


def squares_by_group(error, group_size):
    """Return sums of squares (n_out, n_groups), in f64."""
    error = np.pad(error.astype(np.float64), ((0, 0), (0, -error.shape[1] % group_size)))
    return (error**2).reshape(len(error), -1, group_size).sum(axis=2)


def plain4(w, group_size):
    """Return w (n_out, n_in) in 4 bits with the scale max|w| / 7 for each group, without a search."""
    padded = np.pad(w, ((0, 0), (0, -w.shape[1] % group_size)))
    largest = np.abs(padded.reshape(len(w), -1, group_size)).max(axis=2)
    scales = np.repeat((largest / np.float32(7)).astype(np.float16).astype(np.float32), group_size, axis=1)
    scales = scales[:, : w.shape[1]]
    return nearest4(w, scales) * scales


DISTRIBUTIONS = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "heavy tails": lambda random, shape: random.standard_t(2, shape),
    "one large": lambda random, shape: random.standard_normal(shape) * np.where(np.arange(shape[1]) % 29, 1e-3, 1),
    "one sign": lambda random, shape: random.random(shape),
    "two values": lambda random, shape: random.choice([-1.0, 1.0], shape),
    "whole steps": lambda random, shape: random.integers(-7, 8, shape) * 0.25,
    "subnormal scales": lambda random, shape: random.standard_normal(shape) * 1e-6,
    "near the limit": lambda random, shape: random.uniform(-4.5e5, 4.5e5, shape),
    "many zeros": lambda random, shape: random.standard_normal(shape) * (random.random(shape) < 0.03),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("n_in", "group_size"), [(256, 16), (768, 32), (33, 32), (7, 32), (512, 256)])
def test_scale_search_is_never_worse_than_the_plain_scale(distribution, n_in, group_size):
    w = DISTRIBUTIONS[distribution](np.random.default_rng(n_in), (160, n_in)).astype(np.float32)
    searched = squares_by_group(packed(w, "int4", group_size)[0] - w, group_size)
    plain = squares_by_group(plain4(w, group_size) - w, group_size)
    assert (searched <= plain * (1 + 1e-5)).all()  # the search sums in f32


def test_scale_search_saves_a_quarter_of_the_squared_error_of_normal_weights():
    w = np.random.default_rng(6).standard_normal((512, 768), np.float32)
    searched = ((packed(w, "int4", 32)[0] - w) ** 2).sum()
    assert searched <= 0.7 * ((plain4(w, 32) - w) ** 2).sum()
    assert searched <= 0.0066 * (w**2).sum()  # a fine grid with both signs gives 0.00653


def test_values_on_int4_steps_are_exact():
    w = np.random.default_rng(7).integers(-8, 8, (16, 64)).astype(np.float32) * 0.125
    w[:, ::32] = -1.0  # the largest magnitude is negative and on a step
    assert np.array_equal(packed(w, "int4", 32)[0], w)
    assert np.array_equal(packed(-w, "int4", 32)[0], -w)  # its scales are negative


def test_scale_of_a_group_is_its_largest_value_divided_by_127_rounded_up():
    w = np.random.default_rng(0).standard_normal((16, 128), np.float32)
    scales = packed(w, "int8", 64)[1]
    exact = np.abs(w.reshape(16, 2, 64)).max(axis=2) / np.float32(127)
    nearest = exact.astype(np.float16)
    up = np.where(nearest < exact, np.nextafter(nearest, np.float16(np.inf)), nearest)
    assert np.array_equal(scales[:, ::64], up.astype(np.float32))


@pytest.mark.parametrize("value", [0.0, 1e-9, 6e-8, 1e-5])
def test_group_of_tiny_values_stays_finite_and_accurate(value):
    w = np.full((16, 64), value, np.float32)
    values, scales = packed(w, "int8", 64)
    assert (np.abs(values - w) <= scales * HALF_A_STEP).all()
    values, scales = packed(w, "int4", 64)
    assert np.isfinite(scales).all()
    assert (np.abs(values - w) <= np.abs(w)).all()


@pytest.mark.parametrize("weight_type", ["int8", "int4"])
@pytest.mark.parametrize("inputs_first", [True, False])
def test_chunks_together_are_the_whole_matrix(inputs_first, weight_type):
    w = np.random.default_rng(1).standard_normal((50257, 96), np.float32)
    n_out, n_in = w.shape[::-1] if inputs_first else w.shape
    whole = bytearray(matrix_length(n_out, n_in, weight_type, 32))
    pack_rows(w, whole, inputs_first, weight_type, 32, 0, n_out)
    quantization, content, n_rows = Quantization(), b"", 0
    for chunk, first_row, n in packed_chunks("w", w, inputs_first, weight_type, 32, quantization):
        assert first_row == n_rows
        assert len(chunk) <= max(CHUNK, matrix_length(16, n_in, weight_type, 32))
        content += chunk
        n_rows += n
    assert content == whole
    assert 0 < quantization.mean_error < quantization.max_error


@pytest.mark.parametrize("weight_type", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_value_that_is_not_finite_is_refused(value, weight_type):
    w = np.zeros((17, 64), np.float32)
    w[16, 63] = value
    with pytest.raises(CheckpointError, match="w contains infinity or NaN"):
        list(packed_chunks("w", w, False, weight_type, DEFAULT_GROUP_SIZE[weight_type], Quantization()))


@pytest.mark.parametrize(
    ("weight_type", "value"), [("f16", 65520.0), ("int8", 8.4e6), ("int8", 3e38), ("int4", 4.6e5), ("int4", 3e38)]
)
def test_value_outside_the_range_of_the_type_is_refused(weight_type, value):
    w = np.zeros((17, 64), np.float32)
    w[3, 5] = value
    with pytest.raises(CheckpointError, match=f"w contains a value that is too large for {weight_type}"):
        list(packed_chunks("w", w, False, weight_type, DEFAULT_GROUP_SIZE[weight_type], Quantization()))


# Content of the file


def test_f32_file_holds_every_value_of_the_checkpoint(source, tmp_path):
    tensors = random_tensors()
    result = convert(source, tmp_path / "x.bin", weight_type="f32")
    model = ModelFile(tmp_path / "x.bin")
    assert model.hyperparameters == SMALL
    for tensor in model.tensors:
        content = model.sections["weights"][tensor.offset : tensor.offset + tensor.length]
        if tensor.is_matrix:
            values = unpack(content, *tensor.shape, "f32", 0)[0]
            assert values.tobytes() == matrix(tensors, tensor.name).tobytes()
        else:
            expected = tensors[f"model/{tensor.name}"].tobytes()
            assert bytes(content) == expected.ljust(tensor.length, b"\0")
    assert (result.max_error, result.mean_error) == (0, 0)


@pytest.mark.parametrize(
    ("weight_type", "group_size"),
    [("int8", 16), ("int8", None), ("int8", 256), ("int4", 16), ("int4", None), ("f16", None)],
)
def test_file_reports_its_quantization_error(source, tmp_path, weight_type, group_size):
    tensors = random_tensors()
    result = convert(source, tmp_path / "x.bin", weight_type=weight_type, group_size=group_size)
    model = ModelFile(tmp_path / "x.bin")
    assert model.group_size == (group_size or {"int8": 64, "int4": 32, "f16": 0}[weight_type])
    errors = []
    for tensor in model.tensors:
        content = model.sections["weights"][tensor.offset : tensor.offset + tensor.length]
        if tensor.is_matrix:
            values = unpack(content, *tensor.shape, weight_type, model.group_size)[0]
            errors.append(np.abs(values - matrix(tensors, tensor.name)).ravel())
    errors = np.concatenate(errors)
    assert result.max_error == pytest.approx(errors.max(), rel=1e-4)
    assert result.mean_error == pytest.approx(errors.mean(), rel=1e-3)
    assert model.metadata["quantization"] == {"max_error": result.max_error, "mean_error": result.mean_error}


def test_file_is_valid_and_records_its_source(source, tmp_path):
    chat = {"format": "plain", "user_name": "Анна", "bot_name": "Bot", "opening": "A talk.\n"}
    convert(source, tmp_path / "x.bin", name="Mein Modell", chat=chat)
    model = ModelFile(tmp_path / "x.bin")
    assert list(model.damaged_sections()) == []
    assert model.nonzero_padding() is None
    metadata = model.metadata
    assert metadata["name"] == "Mein Modell"
    assert metadata["source"] == "TensorFlow checkpoint small/model.ckpt"
    assert metadata["source_sha256"] == hashlib.sha256(data_file(source).read_bytes()).hexdigest()
    assert metadata["converter"].startswith("gpt2rt 0.")
    assert metadata["chat"] == chat
    assert "licence" not in metadata


def test_result_describes_the_written_file(source, tmp_path):
    result = convert(source, tmp_path / "x.bin")
    assert result.path == str(tmp_path / "x.bin")
    assert result.size == (tmp_path / "x.bin").stat().st_size
    assert result.source_size == data_file(source).stat().st_size
    assert result.ratio == result.source_size / result.size
    assert result.seconds > 0


def test_same_source_gives_the_same_file(source, tmp_path):
    convert(source, tmp_path / "a.bin")
    convert(source, tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [("model.ckpt", ".", "small-int8.bin"), ("model-1000", "model-1000", "model-1000-int8.bin")],
)
def test_default_name_comes_from_the_source(tmp_path, monkeypatch, name, form, expected):
    write_checkpoint(tmp_path / "small", name=name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert convert(tmp_path / "small" / form).path == expected
    assert [path.name for path in pathlib.Path().iterdir()] == [expected]
    assert ModelFile(expected).metadata["name"] == expected.removesuffix("-int8.bin")


def test_source_may_be_the_current_folder(source, monkeypatch):
    monkeypatch.chdir(source)
    assert convert(".", weight_type="f32").path == "small-f32.bin"


def test_progress_rises_to_the_total(source, tmp_path):
    calls = []
    result = convert(source, tmp_path / "x.bin", progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (result.source_size, result.source_size)
    assert {total for _, total in calls} == {result.source_size}


@pytest.mark.skipif(not TALK.is_dir(), reason=f"{TALK} is missing")
@pytest.mark.parametrize("weight_type", ["int8", "f32"])
def test_trained_model_converts(tmp_path, weight_type):
    result = convert(TALK, tmp_path / "talk.bin", weight_type=weight_type)
    model = ModelFile(tmp_path / "talk.bin")
    assert model.hyperparameters == (4096, 512, 256, 4, 4)
    assert list(model.damaged_sections()) == []
    assert result.max_error < 0.005


# Refused input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_type": "int3"}, "weight type 'int3': expected f32, f16, int8 or int4"),
        ({"group_size": 48}, "group size 48: expected one of 16, 32, 64, 128, 256"),
        ({"weight_type": "f32", "group_size": 64}, "group size 64: not allowed for f32"),
        ({"name": ""}, "model name '': expected 1 to 200 printable characters"),
        ({"name": "a\x1b[2J"}, "model name"),
        ({"name": "\udcff"}, "model name"),
        ({"name": "x" * 201}, "model name"),
        ({"chat": {"format": "chatml"}}, "chat format 'chatml': expected one of plain, dialogpt, template, raw"),
        ({"chat": {"formt": "plain"}}, "chat setting 'formt'"),
        ({"chat": {"bot_name": "Bot:"}}, "chat bot_name 'Bot:': expected a name on one line, without a colon"),
        ({"chat": {"user_name": "\n"}}, "chat user_name"),
        ({"chat": {"opening": None}}, "chat opening None: expected a string"),
        ({"chat": {"opening": "\ud800"}}, "can't be encoded in UTF-8"),
        ({"chat": {"opening": "x" * (1 << 20)}}, "metadata of .* bytes, expected less than"),
    ],
)
def test_invalid_argument_is_refused_by_name(source, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        convert(source, tmp_path / "x.bin", **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_vocabulary_of_the_wrong_size_is_refused(source, tmp_path):
    write_beside(tmp_path / "other", SMALL._replace(n_vocab=300))
    for name in ("encoder.json", "vocab.bpe"):
        (source / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CheckpointError, match="the vocabulary has 300 tokens, expected n_vocab, which is 301"):
        convert(source, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_missing_vocabulary_is_refused(source, tmp_path, name):
    (source / name).unlink()
    with pytest.raises(VocabularyError, match=name):
        convert(source, tmp_path / "x.bin")


def test_file_that_exists_is_not_overwritten(source, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"x\.bin: already exists \(use --force to overwrite it\)"):
        convert(source, tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == b"precious"


def test_force_overwrites(source, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"precious")
    convert(source, tmp_path / "x.bin", force=True)
    ModelFile(tmp_path / "x.bin")


def test_source_itself_is_not_overwritten(source):
    content = data_file(source).read_bytes()
    with pytest.raises(UsageError, match="is the source itself"):
        convert(source, data_file(source), force=True)
    assert data_file(source).read_bytes() == content


# A failure leaves no files


def assert_nothing_left(tmp_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "x.bin"]
    assert (tmp_path / "x.bin").read_bytes() == b"precious"


def test_damaged_tensor_leaves_nothing(source, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"precious")
    content = bytearray(data_file(source).read_bytes())
    content[-1] ^= 1
    data_file(source).write_bytes(content)
    with pytest.raises(CheckpointError, match="tensor 'model/wte' is damaged"):
        convert(source, tmp_path / "x.bin", force=True)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["model/wpe", "model/wte", "model/h1/mlp/c_fc/b", "model/h0/attn/c_attn/w"])
def test_weight_that_is_not_finite_leaves_nothing(source, tmp_path, name):
    (tmp_path / "x.bin").write_bytes(b"precious")
    tensors = random_tensors()
    tensors[name].flat[-1] = np.nan
    write_bundle(source / "model.ckpt", tensors)
    message = f"model.ckpt: tensor '{name.removeprefix('model/')}' contains infinity or NaN"
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "x.bin", force=True)
    assert_nothing_left(tmp_path)


def test_ctrl_c_leaves_nothing(source, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"precious")

    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "x.bin", force=True, progress=interrupt)
    assert_nothing_left(tmp_path)


def test_full_disk_leaves_nothing(source, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"precious")
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(ModelFileError, match=r"x\.bin: can't be written: File too large"):
            convert(source, tmp_path / "x.bin", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert_nothing_left(tmp_path)


# Memory


MEASURE = """
import pathlib, resource, sys
from gpt2rt.converter import convert
from gpt2rt.converter.vocabulary import Vocabulary
Vocabulary.read(*(pathlib.Path(sys.argv[1]) / name for name in ("encoder.json", "vocab.bpe")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = convert(sys.argv[1], sys.argv[2])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), result.source_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
@pytest.mark.slow
def test_memory_stays_far_below_the_weights(tmp_path):
    hyperparameters = Hyperparameters(n_vocab=40_000, n_ctx=16, n_embd=1024, n_head=8, n_layer=2)
    write_beside(tmp_path / "wide", hyperparameters)
    shapes = make_checkpoint.variable_shapes(40_000, 16, 1024, 2)
    write_bundle(tmp_path / "wide" / "model.ckpt", {f"model/{k}": np.ones(v, np.float32) for k, v in shapes.items()})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "wide"), str(tmp_path / "x.bin")]
    grown, source_size = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert source_size > 260e6
    assert grown < 60e6


def test_metadata_is_standard_json(source, tmp_path):
    convert(source, tmp_path / "x.bin")
    assert json.loads(bytes(ModelFile(tmp_path / "x.bin").sections["metadata"]))["name"] == "small"
