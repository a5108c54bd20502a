"""The bundled model's logits have these bits, on every machine and however they are computed; and gpt2rt doctor."""

import functools
import json

import pytest
from demo import DEMO, demo_model

from gpt2rt import doctor
from gpt2rt._kernels import available_isas
from gpt2rt.doctor import N_TOKENS, logits_digest
from gpt2rt.model import open_model

# Of the logits behind each of N_TOKENS fixed tokens. They change with the file or the arithmetic, with nothing else.
GOLDEN = "19c0db7cf9633a47f20851085114999ada684b0f08ab461f91cc7dd661678b40"
GOLDEN_INT8_CACHE = "6491589b96188a5cca52a76c52458b59913233047bc7a67567821150e528581b"


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(N_TOKENS, id="whole"),
        pytest.param(64, id="pieces of 64", marks=pytest.mark.slow),
        pytest.param(1, id="token by token", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("isa", available_isas())
def test_logits_of_the_bundled_model_are_golden(isa, piece):
    demo_model()
    assert logits_digest(open_model(DEMO, isa=isa, n_threads=1), piece) == GOLDEN


@pytest.mark.parametrize("piece", [N_TOKENS, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("isa", available_isas())
def test_logits_with_a_cache_of_int8_are_golden(isa, piece):
    demo_model()
    assert logits_digest(open_model(DEMO, isa=isa, n_threads=1, kv_type="int8"), piece) == GOLDEN_INT8_CACHE


@pytest.mark.parametrize("threads", [2, 3])
def test_number_of_threads_does_not_change_the_golden_logits(threads):
    demo_model()
    assert logits_digest(open_model(DEMO, n_threads=threads)) == GOLDEN


@pytest.fixture
def cli(cli):
    """Runs `gpt2rt doctor` in this process: cli(*options) -> (exit code, stdout, stderr)."""
    demo_model()
    return functools.partial(cli, "doctor")


def test_doctor_expects_the_golden_digest():
    assert doctor.GOLDEN == GOLDEN


def test_doctor_computes_the_expected_logits_with_each_instruction_set(cli, monkeypatch):
    monkeypatch.delenv("GPT2RT_ISA", raising=False)
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert f"{available_isas()[0]}, the best of {', '.join(available_isas())}\n" in out
    assert out.count(f"{GOLDEN[:16]}, as expected\n") == len(available_isas())
    assert ", the smallest of " in out


def test_doctor_prints_everything_as_json(cli, monkeypatch):
    monkeypatch.setenv("GPT2RT_ISA", "portable")
    code, out, _ = cli("--json")
    found = json.loads(out)
    assert (code, found["isa"], found["wanted_isa"]) == (0, "portable", "portable")
    assert set(found["digests"].values()) == {GOLDEN}
    assert found["threads"] <= min(found["thread_limits"].values()) + 0.5
    assert found["versions"].keys() == {"python", "gpt2rt", "numpy", "click"}


def test_doctor_reports_unexpected_logits(cli, monkeypatch):
    monkeypatch.setattr(doctor, "GOLDEN", "0" * 64)
    code, out, err = cli()
    assert code == 1
    assert f"{GOLDEN[:16]}, EXPECTED 0000000000000000\n" in out
    assert "the logits differ from the expected ones" in err


def test_doctor_reports_an_unavailable_instruction_set(cli, monkeypatch):
    monkeypatch.setenv("GPT2RT_ISA", "vax")
    code, out, err = cli()
    assert code == 1
    assert "none: GPT2RT_ISA is 'vax', this processor supports " in out
    assert err == f"gpt2rt: GPT2RT_ISA: got 'vax', expected one of {', '.join(available_isas())} (or unset it)\n"
