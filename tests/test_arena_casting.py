"""Contestants: from files, TOML and mutation; and what they answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conversations import open_byte_model
from demo import DEMO, demo_model

from gpt2rt.arena.casting import from_models, from_toml, split
from gpt2rt.arena.contestants import (
    PRESETS,
    Cast,
    Contestant,
    ContestantError,
    UrlPerformer,
    model_contestant,
)
from gpt2rt.errors import UsageError
from gpt2rt.sampling import CHAT_DEFAULTS, SamplingParams

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def demo():
    demo_model()
    return str(DEMO)


def toml(tmp_path, text):
    path = tmp_path / "contestants.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestModels:
    def test_a_model_answers_as_it_does_in_the_chat(self, demo):
        one = model_contestant("x", demo, {"temperature": 0.9})
        expected = demo_model().chat(HELLO, seed=5, temperature=0.9).text
        assert "".join(Cast().performer(one).answer(HELLO, 5)) == expected

    def test_every_option_is_part_of_the_identity(self, demo):
        settings = model_contestant("x", demo).settings
        assert set(settings) == {"digest", "max_tokens", *SamplingParams().as_dict()}
        assert {name: settings[name] for name in CHAT_DEFAULTS} == CHAT_DEFAULTS
        ids = [model_contestant("x", demo, preset).id for preset in PRESETS.values()]
        assert len(set(ids)) == len(PRESETS)

    def test_a_default_that_is_spelled_out_changes_nothing(self, demo):
        assert model_contestant("x", demo, {"temperature": 0.7}).id == model_contestant("y", demo).id

    def test_unknown_options_are_refused(self, demo):
        with pytest.raises(UsageError, match="unknown option 'temperatur'"):
            model_contestant("x", demo, {"temperatur": 1})
        with pytest.raises(UsageError, match="temperature: got -1"):
            model_contestant("x", demo, {"temperature": -1})

    def test_a_file_that_changed_is_another_contestant(self, tmp_path):
        model = open_byte_model(tmp_path, 100)
        one = model_contestant("x", model.path)
        path = tmp_path / "bytes.bin"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        with pytest.raises(ContestantError, match="has changed"):
            Cast().performer(one)

    def test_a_file_that_is_gone_is_reported(self, tmp_path):
        with pytest.raises(ContestantError, match="No such file"):
            model_contestant("x", str(tmp_path / "nothing.bin"))

    def test_files_and_presets_are_crossed(self, demo):
        names = [one.name for one in from_models([demo], ["chat", "cool", "greedy"])]
        assert names == ["demo", "demo cool", "demo greedy"]
        with pytest.raises(UsageError, match="expected one of chat, greedy"):
            from_models([demo], ["wild"])

    def test_details_say_what_differs_from_the_defaults(self, demo):
        details = model_contestant("x", demo, {"temperature": 0.4, "opening": "Hi\n"}).details()
        assert details[0] == "model"
        assert "temperature 0.4" in details
        assert "opening 'Hi\\n'" in details
        assert not [detail for detail in details if detail.startswith("top_p")]
        assert details[-1].startswith("file ")


class TestToml:
    def test_each_table_is_a_contestant(self, tmp_path, demo):
        path = toml(
            tmp_path,
            f"""
            [[contestant]]
            name = "cool"
            model = '{demo}'
            preset = "cool"
            max_tokens = 40
            [[contestant]]
            name = "by name"
            model = "demo"
            [[contestant]]
            name = "remote"
            url = "http://127.0.0.1:1/v1"
            model = "x"
            temperature = 0.5
            """,
        )
        cool, named, remote = from_toml(path)
        assert cool.id == model_contestant("cool", demo, {"temperature": 0.4, "max_tokens": 40}).id
        assert named.id == model_contestant("demo", demo).id
        assert (remote.kind, dict(remote.settings)) == (
            "url",
            {"url": "http://127.0.0.1:1/v1", "model": "x", "temperature": 0.5},
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no table"),
            ("contestant = 3", "no table"),
            ("[[contestant", "not valid TOML"),
            ("a = " + "[" * 100_000, "not valid TOML"),
            ("[[contestant]]\nmodel = 'demo'", "name: missing"),
            ("[[contestant]]\nname = 'x'", "expected one"),
            ("[[contestant]]\nname = 'x'\nmodel = 'demo'\nbuiltin = 'eliza'", "expected one"),
            ("[[contestant]]\nname = 'x'\nmodel = 3", "model: got 3"),
            ("[[contestant]]\nname = 'x'\nmodel = 'demo'\ntemperatur = 1", "unknown option 'temperatur'"),
            ("[[contestant]]\nname = 'x'\nmodel = 'demo'\npreset = 'wild'", "preset: got 'wild'"),
            ("[[contestant]]\nname = ''\nmodel = 'demo'", "1 to 60 printable"),
            ("\ufeff[[contestant]]\nname = 'x'", "expected one"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, demo, text, message):
        with pytest.raises(UsageError, match=message):
            from_toml(toml(tmp_path, text))

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="No such file"):
            from_toml(str(tmp_path / "nothing.toml"))


class TestSplit:
    def test_children_vary_evenly_and_know_their_parent(self, demo):
        parent = model_contestant("demo", demo, {"top_k": 7})
        children = split(parent, ["temperature=0.5..1.0", "max_tokens=10..20"], 3)
        assert [child.settings["temperature"] for child in children] == [0.5, 0.75, 1.0]
        assert [child.settings["max_tokens"] for child in children] == [10, 15, 20]
        assert {child.settings["top_k"] for child in children} == {7}
        assert {child.parent for child in children} == {parent.id}
        assert children[0].name == "demo · temperature 0.5, max_tokens 10"
        assert len({child.id for child in (parent, *children)}) == 4

    @pytest.mark.parametrize("text", ["temperature", "temperature=1", "opening=0..1", "temperature=a..b", "x=1..2"])
    def test_ranges_that_are_none_are_refused(self, demo, text):
        with pytest.raises(UsageError, match="vary: got"):
            split(model_contestant("demo", demo), [text], 2)

    def test_values_out_of_range_are_refused(self, demo):
        with pytest.raises(UsageError, match="temperature: got -1"):
            split(model_contestant("demo", demo), ["temperature=-1..1"], 2)

    def test_only_models_have_options(self):
        with pytest.raises(UsageError, match="expected a model"):
            split(Contestant("eliza", "eliza", {}), ["temperature=0..1"], 2)


class TestUrl:
    """A server of one path, which answers as the test says."""

    @pytest.fixture
    def serve(self):
        servers = []

        def start(content, status=200):
            class Handler(BaseHTTPRequestHandler):
                def do_POST(self):
                    server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    server.key = self.headers["Authorization"]
                    server.path = self.path
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(content)

                def log_message(self, *_):
                    pass

            server = HTTPServer(("127.0.0.1", 0), Handler)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            servers.append(server)
            return server

        yield start
        for server in servers:
            server.shutdown()
            server.server_close()

    @staticmethod
    def event(content, reason=None):
        choice = {"delta": {"content": content}, "finish_reason": reason}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    def test_the_pieces_of_a_stream_are_the_answer(self, serve, monkeypatch):
        server = serve(self.event("Hel") + self.event("lo", None) + self.event("", "stop") + b"data: [DONE]\n\n")
        monkeypatch.setenv("MY_KEY", "secret")
        settings = {"url": "u", "model": "m", "temperature": 0.5, "key_variable": "MY_KEY"}
        performer = UrlPerformer(f"http://127.0.0.1:{server.server_port}/v1/", settings)
        assert "".join(performer.answer(HELLO, 7)) == "Hello"
        assert server.path == "/v1/chat/completions"
        assert server.asked == {"model": "m", "temperature": 0.5, "messages": HELLO, "seed": 7, "stream": True}
        assert server.key == "Bearer secret"

    @pytest.mark.parametrize(
        ("content", "status"),
        [
            *((b"", 200), (b"data: x\n\n", 200), (b"data: {}\n\n", 200), (b'data: {"error": {}}\n\n', 200)),
            *((b"", 500), (b"data: 7\n\n", 200), (b'data: {"choices": 7}\n\n', 200)),
        ],
    )
    def test_anything_else_is_no_answer(self, serve, content, status):
        server = serve(self.event("Hel") + content, status)
        performer = UrlPerformer(f"http://127.0.0.1:{server.server_port}/v1", {})
        with pytest.raises(ContestantError):
            list(performer.answer(HELLO, 1))

    def test_a_server_that_is_away_is_no_answer(self):
        with pytest.raises(ContestantError, match="can't be used"):
            list(UrlPerformer("http://127.0.0.1:1/v1", {}).answer(HELLO, 1))

    def test_other_schemes_are_refused(self):
        with pytest.raises(UsageError):
            UrlPerformer("file:///etc/passwd", {})


def test_imported_contestants_do_not_answer():
    with pytest.raises(ContestantError, match="imported"):
        Cast().performer(Contestant("x", "imported", {"name": "x"}))
