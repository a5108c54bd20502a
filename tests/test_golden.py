"""The bundled model's logits have these bits, on every machine and however they are computed; and what doctor says."""

import json

import pytest
from demo import DEMO, demo_model

from gpt2rt import doctor
from gpt2rt._kernels import available_isas
from gpt2rt.cli import run
from gpt2rt.doctor import N_TOKENS, logits_digest
from gpt2rt.model import open_model

# Of the logits behind each of N_TOKENS fixed tokens. They change with the file or the arithmetic, with nothing else.
GOLDEN = "19c0db7cf9633a47f20851085114999ada684b0f08ab461f91cc7dd661678b40"


@pytest.mark.parametrize("piece", [N_TOKENS, 64, 1], ids=["whole", "pieces of 64", "token by token"])
@pytest.mark.parametrize("isa", available_isas())
def test_logits_of_the_bundled_model_are_golden(isa, piece):
    demo_model()
    assert logits_digest(open_model(DEMO, isa=isa, threads=1), piece) == GOLDEN


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_don_t_change_them(threads):
    demo_model()
    assert logits_digest(open_model(DEMO, threads=threads)) == GOLDEN


@pytest.fixture
def cli(capsys):
    """Runs gpt2rt doctor: cli(*options) -> (exit code, stdout, stderr)."""

    def call(*options):
        demo_model()
        code = run(["doctor", *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_doctor_expects_what_the_tests_do():
    assert doctor.GOLDEN == GOLDEN


def test_doctor_computes_with_each_instruction_set_what_is_expected(cli, monkeypatch):
    monkeypatch.delenv("GPT2RT_ISA", raising=False)
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert f"{available_isas()[0]}, the best of {', '.join(available_isas())}\n" in out
    assert out.count(f"{GOLDEN[:16]}, as expected\n") == len(available_isas())
    assert ", the least of: " in out


def test_doctor_s_json_holds_it_all(cli, monkeypatch):
    monkeypatch.setenv("GPT2RT_ISA", "portable")
    code, out, _ = cli("--json")
    found = json.loads(out)
    assert (code, found["isa"], found["wanted_isa"]) == (0, "portable", "portable")
    assert set(found["digests"].values()) == {GOLDEN}
    assert found["threads"] <= min(found["thread_limits"].values()) + 0.5
    assert found["versions"].keys() == {"python", "gpt2rt", "numpy", "click"}


def test_doctor_tells_other_logits_than_expected(cli, monkeypatch):
    monkeypatch.setattr(doctor, "GOLDEN", "0" * 64)
    code, out, err = cli()
    assert code == 1
    assert f"{GOLDEN[:16]}, EXPECTED 0000000000000000\n" in out
    assert "other logits than expected" in err


def test_doctor_tells_an_instruction_set_that_can_t_run(cli, monkeypatch):
    monkeypatch.setenv("GPT2RT_ISA", "vax")
    code, out, err = cli()
    assert code == 1
    assert "none: GPT2RT_ISA is 'vax', this machine can run " in out
    assert err == f"gpt2rt: GPT2RT_ISA is 'vax', expected one of {', '.join(available_isas())} (or unset it)\n"
