"""Fields of requests: supported, neutral or refused; and bodies that are no requests."""

import json
import pathlib

import pytest
from demo import demo_model
from serving import serving

from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.requests import ANY, ChatRequest, CompletionRequest, neutral_fields, read_request

SMALLEST = {CompletionRequest: {}, ChatRequest: {"messages": [{"role": "user", "content": "Hello!"}]}}
KINDS = pytest.mark.parametrize("kind", list(SMALLEST))


def read(kind, is_lenient=False, **fields):
    return read_request(json.dumps({**SMALLEST[kind], **fields}).encode(), kind, is_lenient)


def refusal(kind, **fields):
    with pytest.raises(ApiError) as caught:
        read(kind, **fields)
    return caught.value


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}) as server:
        yield server


@pytest.fixture(scope="module")
def lenient():
    with serving({"demo": demo_model()}, is_lenient=True) as server:
        yield server


class TestNeutralFields:
    @KINDS
    def test_every_one_may_be_null(self, kind):
        fields = dict.fromkeys(neutral_fields(kind))
        assert read(kind, **fields) == read(kind)

    @KINDS
    def test_values_that_ask_for_nothing_are_accepted(self, kind):
        for name, values in neutral_fields(kind).items():
            for value in values:
                read(kind, **{name: {"a": [1]} if value is ANY else value})

    @KINDS
    def test_values_that_ask_for_something_are_refused_by_name(self, kind):
        for name, values in neutral_fields(kind).items():
            if ANY not in values:
                error = refusal(kind, **{name: "something"})
                assert (error.status, error.param) == (400, name)
                assert f'{name}: got "something", which this server does not support' in error.message

    def test_true_is_not_one(self):
        assert refusal(CompletionRequest, best_of=3).param == "best_of"
        assert refusal(CompletionRequest, store=0).param == "store"
        assert read(CompletionRequest, best_of=2, n=2)[0].best_of == 2

    @pytest.mark.parametrize("value", [{"type": "json_object"}, {"type": "text", "more": 1}, "text"])
    def test_a_format_other_than_text_is_refused(self, value):
        assert refusal(ChatRequest, response_format=value).param == "response_format"

    def test_tools_are_refused(self):
        tool = {"type": "function", "function": {"name": "weather"}}
        assert refusal(ChatRequest, tools=[tool]).param == "tools"
        assert refusal(ChatRequest, tool_choice={"type": "function"}).param == "tool_choice"

    def test_suffix_is_refused(self):
        assert refusal(CompletionRequest, suffix="end").param == "suffix"


class TestUnknownFields:
    def test_the_nearest_name_is_offered(self):
        error = refusal(CompletionRequest, temperatur=1)
        assert (error.param, error.message) == ("temperatur", "temperatur: unknown field (did you mean temperature?)")

    def test_a_field_of_the_other_kind_is_unknown(self):
        assert refusal(CompletionRequest, messages=[]).param == "messages"
        assert refusal(ChatRequest, echo=True).param == "echo"

    def test_a_lenient_server_reports_what_it_ignores(self, lenient):
        request, ignored = read(CompletionRequest, is_lenient=True, temperatur=1, top_p=0.5, zzz=None)
        assert (request.top_p, ignored) == (0.5, ["temperatur", "zzz"])
        answer = lenient.complete("a", max_tokens=1, **{"temperatur": 1, "a\r\nb": 2, "ü": 3})
        assert answer.headers["gpt2rt-ignored"] == "temperatur, \\xfc"

    @pytest.mark.parametrize("name", [" ", " x ", "", "\t", "\u3000", "x" * 5000, "\U0001f600" * 100])
    def test_a_lenient_server_reports_any_name(self, lenient, name):
        assert lenient.complete("a", max_tokens=1, **{name: 1}).status == 200

    def test_a_lenient_server_refuses_what_it_does_not_support(self):
        with pytest.raises(ApiError):
            read(ChatRequest, is_lenient=True, tools=[{}])


class TestValues:
    @KINDS
    def test_null_is_the_default_of_every_field(self, kind):
        names = [name for name in kind.__struct_fields__ if name != "messages"]
        assert read(kind, **dict.fromkeys(names)) == read(kind)

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": "1"},
            {"temperature": True},
            {"n": 0},
            {"n": 1.5},
            {"seed": -1},
            {"seed": 2**64},
            {"max_tokens": -1},
            {"logprobs": 21},
            {"logprobs": True},
            {"stop": 7},
            {"stop": ["x"] * 17},
            {"stream": "yes"},
            {"stream_options": {"include_usage": True}},
            {"logit_bias": [1]},
            {"prompt": 7},
            {"echo": 1},
            {"top_k": 2.5},
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, fields):
        error = refusal(CompletionRequest, **fields)
        [name] = fields
        assert error.status == 400
        assert error.param.startswith(name)
        assert error.message.startswith(error.param)

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": -1},
            {"temperature": 1e6},
            {"top_p": 2},
            {"presence_penalty": 3},
            {"frequency_penalty": -2.5},
            {"top_k": -1},
            {"stop": ""},
            {"stop": ["a", "x" * 300]},
            {"logit_bias": {"8192": 1}},
            {"logit_bias": {"-1": 1}},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"1": 101}},
            {"prompt": {"a": 1}},
            {"prompt": [[]] * 129},
            {"prompt": [1, "a"]},
            {"prompt": ["a", 1]},
            {"prompt": [["a"]]},
            {"prompt": [1.0]},
            {"prompt": [True]},
            {"prompt": [8192]},
            {"prompt": [-1]},
            {"prompt": [10**30]},
            {"max_tokens": 0},
            {"n": 1000},
        ],
    )
    def test_a_value_out_of_range_is_refused_by_name(self, server, fields):
        error = server.post("/v1/completions", fields).error
        [name] = fields
        assert error["status"] == 400
        assert error["param"].startswith(name)

    def test_16_stops_are_accepted(self):
        assert len(read(CompletionRequest, stop=[str(i) for i in range(16)])[0].stops) == 16

    def test_top_logprobs_need_logprobs(self):
        assert refusal(ChatRequest, top_logprobs=2).param == "top_logprobs"

    def test_obfuscation_is_refused(self):
        options = {"include_obfuscation": True}
        assert refusal(ChatRequest, stream=True, stream_options=options).param == "stream_options"
        read(ChatRequest, stream=True, stream_options={"include_obfuscation": False})

    def test_two_limits_that_differ_are_refused(self):
        assert refusal(ChatRequest, max_tokens=3, max_completion_tokens=4).param == "max_tokens"


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            *(
                b"",
                b"{",
                b"nonsense",
                b"\xff\xfe",
                b'{"prompt": "\xff"}',
                b'{"n": NaN}',
                b'{"n": 1e999}',
                b'{"a": 1} x',
            ),
            *(b"[" * 100_000, b'{"prompt": ' + b"[" * 100_000, b"7", b"[]", b'"text"', b"null", b"9" * 5000),
            b'{"metadata": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001,
        ],
    )
    def test_what_is_no_request_is_refused(self, server, body):
        answer = server.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"

    def test_half_a_pair_of_surrogates_is_a_replacement_character(self, server):
        body = b'{"prompt": "\\ud800", "echo": true, "max_tokens": 1, "seed": 1}'
        answer = server.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        assert answer.status in (200, 400)
        if answer.status == 200:
            assert answer.json["choices"][0]["text"].startswith("\ufffd")

    def test_an_unknown_model_is_named(self, server):
        error = server.complete("a", model="gpt-4").error
        assert (error["status"], error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "demo" in error["message"]

    def test_without_a_name_the_only_model_is_meant(self, server):
        assert server.complete("a", max_tokens=1).json["model"] == "demo"
        with serving({"one": demo_model(), "two": demo_model()}) as two:
            assert two.complete("a").error["param"] == "model"


@KINDS
def test_the_documentation_names_every_field(kind):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    for name in (*kind.__struct_fields__, *neutral_fields(kind)):
        assert f"`{name}`" in rows
