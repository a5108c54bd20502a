"""gpt2rt serve as a process: its first line, signals, and what it can't serve."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from conversations import open_byte_model
from demo import DEMO, demo_model

pytest.importorskip("starlette", reason="the extra 'server' is not installed")


@contextlib.contextmanager
def started(*arguments, program=("-m", "gpt2rt"), **variables):
    """Start the command; yield (process, port) when it has printed its address."""
    process = subprocess.Popen(
        [sys.executable, *program, "serve", "--port", "0", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (.*) at http://127\.0\.0\.1:(\d+) \(Ctrl-C stops it\)\n", line)
        assert found, line + process.stderr.read()
        yield process, int(found[2])
    finally:
        process.kill()
        process.communicate()


def ask(port, method, path, fields=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json", **(headers or {})}
    connection.request(method, path, None if fields is None else json.dumps(fields), headers)
    return connection.getresponse()


@pytest.fixture(scope="module")
def demo():
    demo_model()


@pytest.mark.usefixtures("demo")
class TestServing:
    def test_the_bundled_model_answers(self):
        with started() as (process, port):
            fields = {"messages": [{"role": "user", "content": "Hello!"}], "seed": 1}
            answer = json.load(ask(port, "POST", "/v1/chat/completions", fields))
            assert answer["model"] == "demo"
            assert answer["choices"][0]["message"]["content"] == demo_model().chat(fields["messages"], seed=1).text
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate()
            assert '"POST /v1/chat/completions HTTP/1.1" 200' in log
            assert "Hello" not in log

    def test_it_needs_no_numpy(self):
        code = "import sys; sys.modules['numpy'] = None; from gpt2rt.cli import run; sys.exit(run(sys.argv[1:]))"
        with started(program=("-c", code)) as (_, port):
            assert ask(port, "POST", "/v1/completions", {"prompt": "Hello", "logprobs": 2}).status == 200
            assert ask(port, "POST", "/arena/rounds", {}).status == 201

    def test_models_have_the_names_of_their_files_or_given_ones(self, tmp_path):
        open_byte_model(tmp_path, 100)
        with started("demo", tmp_path / "bytes.bin", f"my model={DEMO}") as (_, port):
            models = json.load(ask(port, "GET", "/v1/models"))["data"]
            assert [model["id"] for model in models] == ["demo", "bytes", "my model"]

    @pytest.mark.parametrize("given", ["option", "variable"])
    def test_a_key(self, given):
        arguments = ["--api-key", "secret"] if given == "option" else []
        with started(*arguments, **({"GPT2RT_API_KEY": "secret"} if given == "variable" else {})) as (_, port):
            assert ask(port, "GET", "/v1/models").status == 401
            assert ask(port, "GET", "/v1/models", headers={"authorization": "Bearer secret"}).status == 200

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
    def test_a_signal_ends_it_with_open_streams(self, name):
        with started("--max-batch", 1) as (process, port):
            body = {"prompt": ["Once"] * 100, "stream": True, "max_tokens": 500, "logit_bias": {"8191": -100}}
            stream = ask(port, "POST", "/v1/completions", body)
            content = stream.read(100)
            process.send_signal(getattr(signal, name))
            content += stream.read()
            last = content.split(b"\n\n")[-2]
            assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping"
            _, log = process.communicate(timeout=10)
            assert process.returncode == (0 if name == "SIGINT" else -signal.SIGTERM)
            assert "Traceback" not in log

    def test_nothing_is_logged_if_unwanted(self):
        with started("--log-level", "error") as (process, port):
            assert ask(port, "GET", "/v1/models").status == 200
            process.send_signal(signal.SIGTERM)
            assert process.communicate()[1] == ""


class TestRefusals:
    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
    def test_an_address_that_cannot_be_printed(self, demo):
        line = [sys.executable, "-m", "gpt2rt", "serve", "--port", "0"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert done.stderr == "gpt2rt: No space left on device\n"

    def test_an_address_in_use(self, cli, demo):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            code, _, err = cli("serve", "--port", port)
        assert code == 2
        assert err.startswith(f"gpt2rt: 127.0.0.1:{port}: can't listen there: ")

    @pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "", "x" * 300])
    def test_an_address_that_does_not_exist(self, cli, demo, host):
        code, _, err = cli("serve", "--host", host, "--port", 0)
        assert code == 2
        assert "can't listen there" in err
        assert len(err.splitlines()) == 1

    def test_two_models_with_one_name(self, cli, demo):
        code, _, err = cli("serve", "demo", DEMO)
        assert code == 2
        assert "two models with the name demo" in err

    def test_a_model_that_does_not_exist(self, cli):
        for argument in ("nothing.bin", "name=nothing.bin"):
            code, _, err = cli("serve", argument)
            assert code == 1
            assert err.startswith("gpt2rt: nothing.bin: no such file ")

    def test_an_empty_key(self, cli, demo):
        assert cli("serve", "--api-key", "")[0] == 2

    @pytest.mark.parametrize("name", ["starlette", "uvicorn", "msgspec"])
    def test_a_missing_package(self, name):
        code = f"import sys; sys.modules[{name!r}] = None; from gpt2rt.cli import run; sys.exit(run(['serve']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        expected = f"gpt2rt: gpt2rt serve needs the package {name} (pip install 'gpt2rt[server]')\n"
        assert (done.returncode, done.stderr) == (2, expected)


def test_a_server_whose_scheduler_failed_ends(cli, demo, monkeypatch):
    from gpt2rt.serve.scheduler import Scheduler

    def fail(self):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Scheduler, "_drop", fail)
    monkeypatch.setattr(Scheduler, "_receive", lambda self: None)
    code, out, err = cli("serve", "--port", 0, "--log-level", "critical")
    assert code == 1
    assert out.startswith("serving demo at ")
    assert err.splitlines()[-1] == "gpt2rt: the server stopped after an internal error (its log has it)"
