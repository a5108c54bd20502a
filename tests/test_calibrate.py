"""Error-compensated rounding: its results, whatever the method."""

import lzma

import numpy as np
import pytest
from checkpoints import SMALL, random_tensors, write_beside, write_bundle
from conftest import shared

from gpt2rt.cli import run
from gpt2rt.converter import convert
from gpt2rt.converter.calibrate import best_scales, compensated, nearest, values
from gpt2rt.converter.quantize import Quantization, packed_chunks, packed_codes
from gpt2rt.errors import CheckpointError, UsageError
from gpt2rt.model import open_model
from gpt2rt.modelfile import ModelFile
from gpt2rt.perplexity import perplexity

TEXT = "The keeper counted the ships, and there were three more than at dawn; she wrote them down. " * 20


def inputs(n_tokens, n_in, seed=0):
    """Return inputs that are correlated, as in a network."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((n_tokens, n_in // 4)) @ random.standard_normal((n_in // 4, n_in))).astype(
        np.float32
    )


@pytest.mark.parametrize("weight_type", ["int8", "int4"])
@pytest.mark.parametrize("n_in", [64, 200])
@pytest.mark.parametrize("group", [16, 32, 256])
def test_calibrated_outputs_are_closer_than_with_nearest_rounding(weight_type, n_in, group):
    x, w = inputs(500, n_in), np.random.default_rng(1).standard_normal((48, n_in)).astype(np.float32)
    codes, scales = compensated(w, (x.T @ x).astype(np.float64), 0.01, weight_type, group)
    plain = np.empty_like(w)
    for begin in range(0, n_in, group):
        part = w[:, begin : begin + group]
        scale = best_scales(part, np.ones(part.shape[1], np.float32), weight_type).astype(np.float32)[:, None]
        plain[:, begin : begin + group] = nearest(part, scale, weight_type) * scale
    rounded = values(codes, scales, group)
    assert np.square(x @ (rounded - w).T).sum() < 0.5 * np.square(x @ (plain - w).T).sum()
    assert np.abs(rounded - w).mean() < 3 * np.abs(plain - w).mean()


def test_weights_of_inputs_that_are_always_zero_are_rounded_to_nearest():
    w = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    codes, scales = compensated(w, np.zeros((64, 64)), 0.01, "int8", 64)
    assert np.abs(values(codes, scales, 64) - w).max() <= np.abs(w).max() / 127


@pytest.mark.parametrize("weight_type", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(16, 64), (35, 72), (1, 8), (50, 33)])
@pytest.mark.parametrize("group", [16, 64])
def test_packed_codes_match_packed_values(weight_type, shape, group):
    """Values on a grid with an obvious scale are packed the same way from codes and from values."""
    random = np.random.default_rng(2)
    n_out, n_in = shape
    largest = {"int8": 127, "int4": 7}[weight_type]
    codes = random.integers(-largest, largest + 1, shape).astype(np.int8)
    codes[:, ::group] = largest  # each group has the value that determines its scale
    scales = np.full((n_out, -(-n_in // group)), 0.25, np.float16)
    w = values(codes, scales, group)
    a, b = Quantization(), Quantization()
    from_codes = b"".join(bytes(chunk) for chunk, *_ in packed_codes(w, codes, scales, weight_type, group, a))
    from_values = b"".join(bytes(chunk) for chunk, *_ in packed_chunks("w", w, False, weight_type, group, b))
    assert from_codes == from_values
    assert a.max_error == b.max_error == 0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "small"
    write_beside(folder)
    write_bundle(folder / "model.ckpt", {name: w * np.float32(0.2) for name, w in random_tensors().items()})
    return folder


@pytest.mark.parametrize("weight_type", ["int8", "int4"])
def test_a_calibrated_file_is_closer_to_its_source(source, tmp_path, weight_type):
    convert(source, tmp_path / "f32.bin", weight_type="f32")
    convert(source, tmp_path / "plain.bin", weight_type=weight_type)
    convert(source, tmp_path / "made.bin", weight_type=weight_type, calibration_text=TEXT)
    f32, found = open_model(tmp_path / "f32.bin"), []
    for name in ("plain.bin", "made.bin"):
        figures = perplexity(open_model(tmp_path / name), [("text", TEXT)], against=f32, stride=SMALL.n_ctx)
        found.append(figures["texts"][0]["against"]["mean_kl"])
    assert found[1] < found[0]
    quantization = ModelFile(tmp_path / "made.bin").metadata["quantization"]
    assert quantization["calibration_tokens"] > 500
    assert len(quantization["calibration_sha256"]) == 64
    assert run(["verify", str(tmp_path / "made.bin")]) == 0


def test_calibration_of_a_float_type_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="expected int8 or int4, got f16"):
        convert(source, tmp_path / "m.bin", weight_type="f16", calibration_text=TEXT)
    with pytest.raises(UsageError, match="the text has 3 tokens, expected at least 64"):
        convert(source, tmp_path / "m.bin", calibration_text="abc")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = tmp_path / "broken"
    write_beside(folder)
    tensors = random_tensors()
    tensors["model/h0/mlp/c_fc/w"][0, 3, 4] = np.nan
    write_bundle(folder / "model.ckpt", tensors)
    with pytest.raises(CheckpointError, match="'h0/mlp/c_fc/w' contains infinity or NaN"):
        convert(folder, tmp_path / "m.bin", calibration_text=TEXT)


@pytest.mark.slow
def test_calibration_halves_the_divergence_of_the_bundled_model_in_int4(tmp_path):
    """Measured on text other than the calibration text; the figures are in docs/quality.md."""
    text = lzma.decompress((shared("text") / "prose" / "aesop.txt.xz").read_bytes()).decode()
    options = {"weight_type": "int4", "quality_text": text[100_000:]}
    result = convert(shared("talk"), tmp_path / "m.bin", calibration_text=text[:90_000], **options)
    plain = convert(shared("talk"), tmp_path / "p.bin", **options)
    assert result.quality["mean_kl"] < 0.6 * plain.quality["mean_kl"]
