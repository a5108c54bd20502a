"""Scripts of bench/, train/ and docs/: each runs as a user starts it, on small data, and its output is checked.

tests/test_documents.py runs the command lines of the documents, tests/test_train.py tests the parts of train/.
"""

import itertools
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import SMALL, write_checkpoint
from demo import DEMO, demo_model
from scripts import ROOT, cells, run

import text
from gpt2rt.arena.lstm import Lstm
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.converter.vocabulary import byte_characters

TEXT = "User: Hello!\nBot: Hello! How are you?\nUser: I am well. And you?\nBot: I am well, too.\n<|endoftext|>\n"


def scripts():
    """Return every script and every package that can be run, as paths from the root."""
    found = []
    for path in (path for folder in ("bench", "train", "docs") for path in sorted((ROOT / folder).rglob("*.py"))):
        if "__main__" in path.read_text(encoding="utf-8"):
            found.append(path.relative_to(ROOT).as_posix())
        elif path.name == "__main__.py":
            found.append(path.parent.relative_to(ROOT).as_posix())
    return [path.removesuffix("/__main__.py") for path in found]


@pytest.mark.parametrize("script", scripts())
def test_a_test_names_every_script(script):
    assert any(f'"{script}"' in path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))


@pytest.fixture
def dialogues(tmp_path):
    """Three dialogues in the format that evaluations read."""
    path = tmp_path / "dialogues.jsonl.xz"
    turns = [["Hello!", "Hello! How are you?"], ["Who are you?", "I am a robot."], ["hi", "hello", "What?", "Nothing."]]
    path.write_bytes(lzma.compress("".join(json.dumps({"turns": one}) + "\n" for one in turns).encode()))
    return path


@pytest.fixture(scope="module")
def needs_demo():
    demo_model()


PROGRAM = """#!{python}
import json, sys
if "--help" in sys.argv:
    print("{options}")
else:
    is_deep = "-d" in sys.argv or "-gp" in sys.argv
    print(json.dumps([{{"avg_ts": {speeds}[is_deep]}}]))
"""


@pytest.mark.usefixtures("needs_demo")
class TestSpeed:
    def test_a_worker_answers_with_the_models_logits(self):
        order = json.dumps({"do": "logits", "tokens": [1, 2, 3]})
        command = [sys.executable, "bench/worker.py", "gpt2rt", str(DEMO), "1"]
        done = subprocess.run(command, input=order + "\n", capture_output=True, text=True, check=True, cwd=ROOT)
        version, logits = map(json.loads, done.stdout.splitlines())
        sequence = demo_model().sequence()
        sequence.append([1, 2, 3])
        assert version.startswith("gpt2rt ")
        assert np.array_equal(np.array(logits, np.float32), sequence.logits)

    def test_a_worker_that_fails_is_reported(self, tmp_path):
        (tmp_path / "broken.bin").write_bytes(b"no model")
        error = run("bench/compare.py", sys.executable, sys.executable, tmp_path / "broken.bin", status=1)
        assert "broken.bin: " in error
        assert error.splitlines()[-1].endswith("the worker exited with 1")

    @pytest.mark.slow
    def test_two_versions_are_compared(self):
        table = run("bench/compare.py", sys.executable, sys.executable, DEMO, "--rounds", 1, "--threads", 1)
        rows = {}
        for line in table.splitlines()[1:-1]:
            what, before, after, speedup = re.split(r"\s{2,}", line)
            before, after = (float(text.split()[0].replace(",", "")) for text in (before, after))
            rows[what] = before, after, float(speedup)
        times = ["first token"]
        speeds = ["decode", "decode after 496", "prompt of 512", "batch of 16", "batch of 64"]
        assert sorted(rows) == sorted(times + speeds)
        for what, (before, after, speedup) in rows.items():
            assert speedup == pytest.approx(before / after if what in times else after / before, abs=0.02, rel=0.02)

    @pytest.mark.skipif(os.name != "posix", reason="the program is a script")
    def test_the_programs_of_llama_cpp_are_compared(self, tmp_path):
        """Programs that answer as those of llama.cpp 0.5 (in `new`) and of an older fork (in `old`) do."""
        for name, options, speeds in (("new", "-d, --n-depth", (500, 250)), ("old", "-gp", (1000, 125))):
            (tmp_path / name).mkdir()
            script = tmp_path / name / "llama-bench"
            script.write_text(PROGRAM.format(python=sys.executable, options=options, speeds=speeds))
            script.chmod(0o755)
        (tmp_path / "new" / "llama-completion").symlink_to("llama-bench")
        peers = [option for name in ("new", "old") for option in ("--peer", tmp_path / name, DEMO)]
        table = cells(run("bench/llama_bench.py", DEMO, *peers, "--rounds", 1, "--threads", 1))
        assert {what: row[1:3] for what, row in table.items() if what.startswith("decode")} == {
            "decode": ["500.0", "1,000.0"],
            "decode at 488": ["250.0", "125.0"],
        }
        for what, (*figures, first, second) in table.items():
            if what.startswith(("decode", "prompt")):
                ours, *theirs = (float(text.replace(",", "")) for text in figures)
                assert [float(first), float(second)] == pytest.approx([ours / other for other in theirs], abs=1e-3)

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are pinned to cores on Linux")
    def test_a_busy_core_is_compared_with_none(self):
        versions = [sys.executable, sys.executable]
        lines = run("bench/busy_core.py", DEMO, *versions, "--rounds", 1, "--threads", 1).splitlines()
        rows = [re.split(r"\s{2,}", line) for line in lines[1:]]
        whats = ["prompt of 512"] * 3 + ["decode"] * 3
        assert [row[:2] for row in rows] == [
            [what, ["before", "after", "after / before"][i % 3]] for i, what in enumerate(whats)
        ]
        for before, after, ratios in (rows[:3], rows[3:]):
            speeds = [[float(text.replace(",", "")) for text in row[2:]] for row in (before, after)]
            for alone, busy, ratio in speeds:
                assert ratio == pytest.approx(busy / alone, abs=0.02, rel=0.02)
            for one, other, ratio in zip(*speeds, ratios[2:], strict=False):
                assert float(ratio) == pytest.approx(other / one, abs=0.02, rel=0.02)


def test_the_arenas_intervals_are_tried_on_simulated_votes():
    small = ["--boards", 2, "--runs", 2, "--votes", 60, "--resamples", 20]
    boards, winners = map(cells, run("bench/arena_coverage.py", *small).split("\n\n"))
    assert boards["few rounds"][:2] == ["4", "20"]
    for row in list(boards.values())[2:]:
        assert 0 < float(row[-1]) < 400
    assert winners["two equals, 30% ties"][0] in ("0.0%", "50.0%", "100.0%")
    assert len(winners["eight equals"]) == 3


class TestServing:
    """The load on a server, and the client that makes it."""

    OPTIONS = ("--threads", 1, "--rounds", 2, "--requests", 2, "--tokens", 8, "--prompt-tokens", 8)

    @pytest.fixture
    def needs_server(self, needs_demo):
        for module in ("starlette", "uvicorn"):
            pytest.importorskip(module, reason=f"{module} is not installed")

    @pytest.fixture
    def streaming(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "bench")
        import streaming

        return streaming

    @pytest.mark.usefixtures("needs_server")
    @pytest.mark.slow
    def test_a_server_is_measured_next_to_the_library(self):
        load, alone = run("bench/serving.py", DEMO, "--clients", "1,3", *self.OPTIONS).split("\n\n")
        head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in load.splitlines())
        assert head[1:] == ["clients", "requests", "tokens/s", "first token, p50, ms", "first token, p99, ms"]
        assert [row[:3] for row in rows] == [
            ["gpt2rt serve", "1", "4"],  # two rounds of two requests per client
            ["gpt2rt serve", "3", "12"],
            ["library, batch of 16", "", ""],
        ]
        assert all(float(row[3].replace(",", "")) > 0 for row in rows)
        for row in rows[:-1]:
            p50, p99 = (float(text.replace(",", "")) for text in row[4:])
            assert 0 < p50 <= p99
        found = cells(alone)
        library, (server, more) = found["library"][0], found["gpt2rt serve"]
        assert float(more) == pytest.approx(float(server) - float(library), abs=0.02)

    @pytest.mark.slow
    @pytest.mark.usefixtures("needs_server")
    def test_every_rounds_speed_is_in_the_json(self):
        found = json.loads(run("bench/serving.py", DEMO, "--clients", "2", *self.OPTIONS, "--shared-prompt", "--json"))
        [load] = found["loads"]
        assert load["requests"] == 8
        assert min(load["speeds"]) <= load["speed"] <= max(load["speeds"])
        assert len(load["speeds"]) == len(found["batch"]["speeds"]) == 2
        assert 0 < load["client_cpu"] < 1

    @pytest.mark.slow
    @pytest.mark.usefixtures("needs_server")
    def test_a_peer_that_does_not_start_is_reported(self):
        peer = ["--llama-server", sys.executable, "--gguf", DEMO]
        error = run("bench/serving.py", DEMO, "--clients", "1", *self.OPTIONS, *peer, status=1)
        assert "llama-server: exited with" in error

    def test_a_peer_without_its_model_is_refused(self):
        assert "--gguf" in run("bench/serving.py", DEMO, "--llama-server", sys.executable, status=2)

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_a_stream_is_read_however_its_bytes_arrive(self, streaming, size):
        events = [
            b'{"choices": [{"text": "\\u00e9", "finish_reason": null}]}',
            b'{"choices": [{"text": "", "finish_reason": "length"}]}',
            b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}',
            b"[DONE]",
        ]
        body = b": a comment\r\n\r\n" + b"".join(b"data: %s\r\n\r\n" % event for event in events)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:30], body[30:], b""))
        content = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        response = streaming.Response()
        for at in range(0, len(content), size):
            assert not response.is_complete
            response.feed(content[at : at + size])
        assert response.is_complete
        assert response.events == events
        assert [streaming.text_of(event) for event in response.events] == ["é", "", "", ""]
        assert streaming.usage_of(response) == (3, 1)

    def test_a_stream_that_breaks_off_is_no_completion(self, streaming):
        response = streaming.Response()
        response.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:")
        with pytest.raises(streaming.ResponseError, match="the connection ended"):
            response.feed(b"")

    def test_a_refused_request_is_reported_with_its_reason(self, streaming):
        response = streaming.Response()
        response.feed(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\nno prompt")
        assert response.is_complete
        with pytest.raises(streaming.ResponseError, match="status 400: no prompt"):
            streaming.usage_of(response)


class TestPerformance:
    """The page about performance, with a tiny model and the peers that happen to be installed."""

    @pytest.fixture(autouse=True)
    def needs(self):
        for module in ("gguf", "safetensors"):
            pytest.importorskip(module, reason=f"{module} is not installed")

    @pytest.fixture
    def models(self, monkeypatch, tmp_path):
        """A tiny checkpoint in the peers' formats."""
        monkeypatch.syspath_prepend(ROOT / "bench" / "performance")
        from models import PeerModels

        write_checkpoint(tmp_path / "checkpoint", SMALL._replace(n_ctx=64))
        return PeerModels(tmp_path / "checkpoint", tmp_path / "models")

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="it times cp and sha256sum")
    def test_it_is_written_beside_what_was_measured(self, tmp_path):
        pytest.importorskip("tensorflow", reason="tensorflow is not installed")
        docs = {path: path.read_bytes() for path in (ROOT / "docs").glob("performance*")}
        run("bench/performance", "--smoke", "--cache", tmp_path)
        assert {path: path.read_bytes() for path in docs} == docs
        assert not (tmp_path / "environments").exists()

        found = json.loads((tmp_path / "results.json").read_text())
        off = {}
        for contender in found["peers"]["contenders"]:
            assert min(contender["medians"][what] for what in ("start", "memory")) > 0
            if contender["runtime"] == "gpt2rt-chat":
                continue
            assert min(contender["medians"][what] for what in ("decode", "deep", "prompt")) > 0
            off[contender["runtime"], contender["kind"]] = contender["medians"]["off"]
        assert off["gpt2rt", "f32"] == 0 < off["gpt2rt", "f16"] < off["gpt2rt", "int8"] < off["gpt2rt", "int4"]
        missing = {line.split(":")[0] for line in found["peers"]["missing"]}
        assert {runtime for runtime, _ in off} | missing >= {"gpt2rt", "llama.cpp", "openvino", "ctranslate2", "torch"}
        assert list(found["ours"]["batches"]) == ["1", "2", "4", "8", "16", "32"]

        page = (tmp_path / "performance.md").read_text(encoding="utf-8")
        assert f"| batch of 32 | {found['ours']['batches']['32']:,.0f} |" in page
        assert "\n| tiny | 0 | " in page
        assert ">gpt2rt int8<" in (tmp_path / "performance-light.svg").read_text()

    def test_its_plots_show_its_table(self, tmp_path):
        shutil.copy(ROOT / "docs" / "performance.md", tmp_path)
        run("bench/performance/plot.py", tmp_path / "performance.md")
        drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
        assert drawn == {path.name: path.read_bytes() for path in (ROOT / "docs").glob("performance*.svg")}
        assert len(drawn) == 4

    def test_a_folder_for_transformers_has_the_checkpoints_tensors(self, models, tmp_path):
        from safetensors.numpy import load_file

        folder, checkpoint = models.hugging_face(), TensorFlowCheckpoint(tmp_path / "checkpoint")
        tensors = load_file(folder / "model.safetensors")
        assert np.array_equal(tensors["transformer.wte.weight"], checkpoint.tensor("wte"))
        assert np.array_equal(tensors["transformer.h.1.mlp.c_proj.bias"], checkpoint.tensor("h1/mlp/c_proj/b"))
        assert len(json.loads((folder / "vocab.json").read_text(encoding="utf-8"))) == SMALL.n_vocab

    def test_a_gguf_file_has_the_checkpoints_tensors(self, models, tmp_path):
        from gpt2rt.converter.gguf import GgufFile

        file, checkpoint = GgufFile(models.gguf("F16", sys.executable)), TensorFlowCheckpoint(tmp_path / "checkpoint")
        assert file.vocabulary().section() == checkpoint.vocabulary().section()
        for name in ("wte", "wpe", "h1/mlp/c_proj/w", "h0/ln_1/b"):
            np.testing.assert_allclose(file.tensor(name), checkpoint.tensor(name), rtol=1e-3, atol=1e-4)

    def test_torch_continues_a_text(self, models):
        for module in ("torch", "transformers"):
            pytest.importorskip(module, reason=f"{module} is not installed")
        assert run("bench/performance/continue_text.py", "torch", models.hugging_face(), 1, "Hello", 3).strip()

    def test_ctranslate2_continues_a_text_of_what_it_quantized(self, models, tmp_path):
        for module in ("ctranslate2", "tokenizers"):
            pytest.importorskip(module, reason=f"{module} is not installed")
        source, output = models.hugging_face(), tmp_path / "quantized"
        run("bench/performance/converters.py", "ctranslate2", source, output, "int8")
        assert run("bench/performance/continue_text.py", "ctranslate2", output, 1, "Hello", 3).strip()


class TestMakeCheckpoint:
    SHAPE = ("--n-vocab", 300, "--n-ctx", 12, "--n-embd", 32, "--n-head", 2, "--n-layer", 2)

    @pytest.mark.slow
    def test_it_is_a_checkpoint_with_random_weights(self, tmp_path):
        pytest.importorskip("tensorflow", reason="tensorflow is not installed")
        run("bench/make_checkpoint.py", "custom", tmp_path, *self.SHAPE)
        checkpoint = TensorFlowCheckpoint(tmp_path)
        assert list(checkpoint.hyperparameters) == [300, 12, 32, 2, 2]
        assert checkpoint.vocabulary().n_vocab == 300
        assert np.std(checkpoint.tensor("wte")) == pytest.approx(0.02, rel=0.05)
        assert not np.array_equal(checkpoint.tensor("h0/attn/c_attn/w"), checkpoint.tensor("h1/attn/c_attn/w"))

    def test_a_width_that_the_heads_do_not_divide_is_refused(self, tmp_path):
        message = run("bench/make_checkpoint.py", "124M", tmp_path, "--n-head", 5, status=2)
        assert "--n-embd: got 768, expected a multiple of --n-head, 5" in message


class TestTrain:
    """The bundled model's recipe, from text to a checkpoint and a picture."""

    @pytest.fixture
    def work(self, tmp_path):
        """The output of prepare.py for a small text."""
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
        names = [name for group in text.GROUPS.values() for name in group]
        for name in names:
            path = tmp_path / "text" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            turns = "".join(json.dumps({"turns": [f"hello {n}", "how are you?"]}) + "\n" for n in range(20))
            path.write_bytes(lzma.compress((turns if ".jsonl" in name else TEXT * 20).encode()))
        held_out = next(tmp_path / "text" / name for name in names if ".jsonl" in name)
        lines = run("train/prepare.py", tmp_path / "text", tmp_path / "work", "--held-out", held_out)
        assert len(lines.splitlines()) == len(text.GROUPS)
        return tmp_path / "work"

    def test_dialogues_become_text(self, dialogues):
        found = run("train/text.py", "--first", 2, dialogues)
        assert found == "User: Hello!\nBot: Hello! How are you?\n<|endoftext|>User: Who are you?\nBot: I am a robot.\n"

    def test_dialogues_about_the_model_are_printed(self):
        dialogues = run("train/about.py").strip().split("\n\n")
        assert len(dialogues) == 30
        assert all(len(dialogue.splitlines()) % 2 == 0 for dialogue in dialogues)

    @pytest.mark.slow
    def test_answers_are_scored(self, needs_demo, tmp_path):
        pytest.importorskip("torch", reason="torch is not installed")
        turns = [["Hello!", "Hello! How are you?"], ["Who are you?", "I am a robot."]] * 4
        content = "".join(json.dumps({"turns": pair}) + "\n" for pair in turns).encode()
        for name in itertools.chain(*text.GROUPS.values()):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(lzma.compress(content if name.endswith(".jsonl.xz") else b"Once.\n"))
        run("train/score.py", tmp_path, tmp_path / "scores.npz", "--model", ROOT / "train" / "demo-f16.bin")
        with np.load(tmp_path / "scores.npz") as scores:
            assert all(len(scores[group]) for group in scores)

    def test_a_curve_is_plotted(self, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        (tmp_path / "curve.csv").write_text("broad,10,1.5,5.25,5.5\nbroad,20,3.0,4.25,4.5\nchat,30,4.5,3.25,3.5\n")
        run("train/plot.py", tmp_path, tmp_path / "curve.svg")
        for scheme in ("light", "dark"):
            picture = (tmp_path / f"curve-{scheme}.svg").read_text()
            assert ">training text<" in picture
            assert ">chat<" in picture

    def test_dialogues_become_an_lstm(self, tmp_path):
        pytest.importorskip("torch", reason="torch is not installed")
        characters = [*byte_characters(), text.END_OF_TEXT]
        (tmp_path / "encoder.json").write_text(json.dumps({one: i for i, one in enumerate(characters)}))
        (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
        turns = [characters.index(one) for one in "User:ĠHi!ĊBot:ĠHello!Ċ"]
        for name in ("held_out", *text.GROUPS):
            np.save(tmp_path / f"{name}.tokens.npy", np.array([*turns * 20, len(characters) - 1] * 3, np.uint16))
        run("train/lstm.py", tmp_path, tmp_path / "first.npz", "--steps", 1)
        lines = run("train/lstm.py", tmp_path, tmp_path / "lstm.npz", "--steps", 3).splitlines()
        assert "from step 1 on" in lines[0]
        [bits] = re.findall(r": [\d,]+ bytes, ([\d.]+) bits per byte of held-out dialogues$", lines[-1])
        assert 1 < float(bits) < 9
        assert "".join(Lstm(tmp_path / "lstm.npz").answer([{"role": "user", "content": "Hi!"}], seed=1))

    @pytest.mark.slow
    def test_text_becomes_a_checkpoint(self, work, tmp_path):
        for module in ("torch", "tensorflow"):
            pytest.importorskip(module, reason=f"{module} is not installed")
        shape = ["--n-embd", 32, "--n-head", 2, "--n-layer", 1]
        run("train/train.py", work, "broad", "--minutes", 0.05, *shape)
        run("train/export.py", work, tmp_path / "checkpoint")
        checkpoint = TensorFlowCheckpoint(tmp_path / "checkpoint")
        assert checkpoint.hyperparameters[2:] == (32, 2, 1)
        assert checkpoint.vocabulary().n_vocab == checkpoint.hyperparameters.n_vocab
        stage, *_, held_out = (work / "curve.csv").read_text().splitlines()[-1].split(",")
        assert stage == "broad"
        assert 0 < float(held_out) < 10  # of fewer tokens than a window


class TestDocs:
    """Pages and pictures that scripts write, in a copy of docs/."""

    @pytest.fixture
    def copy(self, tmp_path):
        shutil.copytree(ROOT / "docs", tmp_path / "docs")
        return tmp_path

    def test_the_help_of_the_commands_is_written(self, copy):
        (copy / "docs" / "cli.md").unlink()
        run("docs/make_cli.py", cwd=copy)
        written = (copy / "docs" / "cli.md").read_text(encoding="utf-8")
        assert written == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
    @pytest.mark.usefixtures("needs_demo")
    def test_the_picture_is_of_what_the_bundled_model_says(self, copy):
        pytest.importorskip("rich", reason="rich is not installed")
        (copy / "docs" / "chat.svg").unlink()
        run("docs/make_picture.py", cwd=copy)
        new, old = (
            re.findall(r"<text[^>]*>([^<]*)</text>", (folder / "docs" / "chat.svg").read_text(encoding="utf-8"))
            for folder in (copy, ROOT)
        )
        assert len(new) > 10
        assert new == old, "run python docs/make_picture.py"

    @pytest.mark.slow
    @pytest.mark.usefixtures("needs_demo")
    def test_the_pictures_are_of_a_lesson(self, copy, browser):
        pictures = [copy / "docs" / f"explain-{name}.png" for name in ("next", "layers")]
        for path in pictures:
            path.unlink()
        run("docs/make_lesson.py", cwd=copy)
        for path in pictures:
            content = path.read_bytes()
            assert content.startswith(b"\x89PNG")
            assert struct.unpack(">II", content[16:24]) == (900, 1000)
