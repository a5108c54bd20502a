"""The quality report that convert stores in a model file."""

import hashlib
import json

import numpy as np
import pytest
from checkpoints import SMALL, random_tensors, write_beside, write_bundle
from conftest import shared

from gpt2rt import UsageError, open_model
from gpt2rt.cli import run
from gpt2rt.cli.convert import show_quality
from gpt2rt.converter import convert
from gpt2rt.converter.quality import bundled_text
from gpt2rt.perplexity import perplexity

TEXT = "Whether they are quantized or not, these weights were never trained. " * 2


def write_source(folder, scale):
    """Write a checkpoint whose tensors are multiplied by `scale`."""
    write_beside(folder)
    write_bundle(folder / "model.ckpt", {name: values * np.float32(scale) for name, values in random_tensors().items()})
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "small", 0.2)


def test_f32_file_matches_its_source(source, tmp_path):
    quality = convert(source, tmp_path / "m.bin", weight_type="f32", quality_text=TEXT).quality
    assert quality["mean_kl"] < 1e-7
    assert quality["same_top"] == 1
    assert quality["loss"] == pytest.approx(quality["source_loss"], rel=1e-5)


@pytest.mark.parametrize("weight_type", ["f16", "int8", "int4"])
def test_report_matches_perplexity_command(source, tmp_path, weight_type):
    quality = convert(source, tmp_path / "m.bin", weight_type=weight_type, quality_text=TEXT).quality
    convert(source, tmp_path / "f32.bin", weight_type="f32")
    model, reference = open_model(tmp_path / "m.bin"), open_model(tmp_path / "f32.bin")
    found = perplexity(model, [("text", TEXT)], against=reference, stride=SMALL.n_ctx)["texts"][0]
    assert quality["n_tokens"] == found["n_tokens"]
    assert quality["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    for name in ("loss", "perplexity"):
        assert quality[name] == pytest.approx(found[name], rel=1e-5)
        assert quality[f"source_{name}"] == pytest.approx(found["against"][name], rel=1e-5)
    for name in ("mean_kl", "largest_kl", "same_top"):
        assert quality[name] == pytest.approx(found["against"][name], rel=1e-3, abs=1e-8)


def test_report_is_stored_in_the_file_and_leaves_the_weights_unchanged(source, tmp_path):
    result = convert(source, tmp_path / "with.bin", quality_text=TEXT)
    assert convert(source, tmp_path / "without.bin").quality is None
    measured, other = open_model(tmp_path / "with.bin"), open_model(tmp_path / "without.bin")
    assert measured.metadata["quality"] == result.quality
    assert "quality" not in other.metadata
    assert measured._file.sections["weights"] == other._file.sections["weights"]
    assert run(["verify", str(tmp_path / "with.bin")]) == 0


def test_progress_ends_at_the_total(source, tmp_path):
    seen = []
    convert(source, tmp_path / "m.bin", quality_text=TEXT, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {seen[-1][0]}


def test_text_without_tokens_is_rejected(source, tmp_path):
    with pytest.raises(UsageError, match="the text has no token to score"):
        convert(source, tmp_path / "m.bin", quality_text="")
    assert not list(tmp_path.iterdir())


def test_loss_that_is_not_finite_gives_no_report(tmp_path, cli):
    folder = write_source(tmp_path / "huge", 1e18)
    path = tmp_path / "m.bin"
    code, out, err = cli("convert", folder, "-o", path, "--type", "f32", "--text", __file__)
    assert (code, out.count("\n")) == (0, 1)
    assert err == "gpt2rt: the model's loss on the text is not finite, so the file has no quality report\n"
    assert "quality" not in open_model(path).metadata


def test_bundled_text_is_several_pages_of_prose():
    text = bundled_text()
    assert text.startswith("Alice was beginning to get very tired of sitting by her sister on the bank, ")
    assert 10_000 < len(text) < 12_000


def test_command_measures_on_the_bundled_text_and_info_prints_the_report(source, tmp_path, cli):
    path = tmp_path / "m.bin"
    code, out, _ = cli("convert", source, "-o", path)
    assert code == 0
    assert "\non 1023 tokens of text: perplexity " in out  # the small vocabulary makes more than 1,024 tokens
    quality = json.loads(cli("info", path, "--json")[1])["metadata"]["quality"]
    assert quality["text_sha256"] == hashlib.sha256(bundled_text().encode()).hexdigest()
    assert "quality mean_kl" in cli("info", path)[1]


def test_command_measures_f32_only_on_request(source, tmp_path, cli):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    assert "tokens of text" not in cli("convert", source, "-o", tmp_path / "a.bin", "--type", "f32")[1]
    assert "tokens of text" in cli("convert", source, "-o", tmp_path / "b.bin", "--type", "f32", "--text", text)[1]
    for option in ("--no-quality-report", "--no-receipt"):  # the second is the former name
        path = tmp_path / f"{option}.bin"
        assert "tokens of text" not in cli("convert", source, "-o", path, option)[1]
    code, _, err = cli("convert", source, "--no-quality-report", "--text", text)
    assert (code, err) == (2, "gpt2rt: --text and --no-quality-report: got both, expected one of them\n")


@pytest.mark.parametrize(
    ("weight_type", "loss", "warning"),
    [
        ("int4", 4.052, "gpt2rt: int4 raises the loss by 1.3% (--calibrate or --type int8 keeps more)\n"),
        ("int8", 4.052, "gpt2rt: int8 raises the loss by 1.3% (--calibrate or --type f16 keeps more)\n"),
        ("int4", 4.03, ""),
        ("int8", 3.9, ""),
    ],
)
def test_loss_increase_of_more_than_one_percent_gives_a_warning(capsys, weight_type, loss, warning):
    quality = {"n_tokens": 9, "loss": loss, "source_loss": 4.0, "perplexity": 57.0, "source_perplexity": 54.6}
    show_quality({**quality, "mean_kl": 0.05, "largest_kl": 1.0, "same_top": 0.8}, weight_type)
    captured = capsys.readouterr()
    assert captured.out.startswith("on 9 tokens of text: perplexity 57, the source's 54.6 (loss ")
    assert captured.err == warning


@pytest.mark.slow
def test_bundled_model_has_negligible_quality_loss(tmp_path):
    quality = convert(shared("talk"), tmp_path / "m.bin", quality_text=bundled_text()).quality
    assert quality["loss"] / quality["source_loss"] - 1 < 1e-3
    assert quality["mean_kl"] < 2e-3
    assert quality["same_top"] > 0.96
