"""llm, https://llm.datasette.io: the plugin in gpt2rt, and llm as a client of gpt2rt serve."""

import json
import shutil

import pytest
from clients import HELLO, STORY, needs, offline, process_apart, run, serving_process
from demo import DEMO, demo_model

from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams

pytest.importorskip("starlette", reason="the extra 'server' is not installed")


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with offline():
        yield


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture(scope="module")
def server(model):
    with serving_process() as address:
        yield address


@pytest.fixture(scope="module")
def url(server):
    return f"{server}/v1"


@pytest.fixture(scope="module")
def apart():
    with process_apart() as call:
        yield call


@pytest.fixture
def llm(tmp_path, monkeypatch):
    """Runs a command of llm, with a folder of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments, **options: run("-m", "llm", *arguments, **options)


@needs("llm")
@pytest.mark.slow
class TestLlm:
    def test_the_command_for_endpoints_gets_the_librarys_answer(self, llm, url, model):
        expected = model.chat(HELLO, seed=7).text
        assert llm("openai", "endpoint", url, "-m", "demo", "-o", "seed", 7, "Hello!") == f"{expected}\n"
        assert llm("openai", "endpoint", url, "-m", "demo", "-o", "seed", 7, "--no-stream", "Hello!") == f"{expected}\n"

    def test_the_command_for_endpoints_lists_the_models(self, llm, url):
        assert llm("openai", "endpoint", url, "--models") == "demo\n"

    def test_a_schema_is_refused_by_name(self, llm, url):
        message = llm("openai", "endpoint", url, "-m", "demo", "--schema", "name, age int", "Hello!", status=1)
        assert "response_format: got a JSON object, which this server does not support" in message

    def test_a_configured_model_continues_texts(self, llm, url, model, tmp_path):
        one = {"model_id": "tale", "model_name": "demo", "api_base": url, "completion": True}
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([one]))  # JSON is YAML
        text = model.generate(STORY, seed=7, max_tokens=20).text()
        assert llm("-m", "tale", "-o", "seed", 7, "-o", "max_tokens", 20, STORY, "--key", "none") == f"{text}\n"


# --- llm, with the plugin


@needs("llm")
@pytest.mark.slow
class TestLlmPlugin:
    @pytest.mark.parametrize("how", [[], ["--no-stream"], ["--async"]], ids=["streamed", "whole", "async"])
    def test_an_answer_is_the_librarys(self, llm, model, how):
        assert llm("-m", "gpt2rt", "-o", "seed", 1, *how, "Hello!") == model.chat(HELLO, seed=1).text + "\n"

    def test_options_are_those_of_sampling(self, llm, model):
        options = {"temperature": 1.5, "top_k": 10, "no_repeat_ngram_size": 2, "max_tokens": 5, "seed": 1}
        arguments = [word for name, value in options.items() for word in ("-o", name, value)]
        assert llm("-m", "gpt2rt", *arguments, "Hello!") == model.chat(HELLO, **options).text + "\n"

    def test_the_system_prompt_is_the_opening(self, llm, model):
        messages = [{"role": "system", "content": "A talk in the garden."}, *HELLO]
        answer = llm("-m", "gpt2rt", "-o", "seed", 1, "-s", "A talk in the garden.", "Hello!")
        assert answer == model.chat(messages, seed=1).text + "\n"

    def test_a_conversation_is_continued(self, llm, model):
        first = llm("-m", "gpt2rt", "-o", "seed", 1, "-s", "A talk in the garden.", "Hello!").rstrip("\n")
        second = llm("-c", "-o", "seed", 2, "What did you do yesterday?").rstrip("\n")
        turns = [
            {"role": "system", "content": "A talk in the garden."},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "What did you do yesterday?"},
        ]
        assert second == model.chat(turns, seed=2).text

    def test_the_log_has_the_usage_and_the_seed_that_repeats_the_answer(self, llm, model):
        text = llm("-m", "gpt2rt", "-o", "temperature", 1.5, "Hello!")
        (logged,) = json.loads(llm("logs", "--json"))
        answer = model.chat(HELLO, temperature=1.5, seed=logged["response_json"]["seed"])
        assert text == answer.text + "\n"
        assert logged["response_json"]["finish_reason"] == answer.finish_reason
        assert (logged["input_tokens"], logged["output_tokens"]) == (answer.n_prompt_tokens, answer.n_tokens)

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("temperature", "200", "temperature\n  Input should be less than or equal to 100\n"),
            ("top_p", "much", "top_p\n  Input should be a valid number, unable to parse string as a number\n"),
            ("temprature", "1", "temprature\n  Extra inputs are not permitted\n"),
            ("max_tokens", "513", "max_tokens: got 513, expected a whole number from 1 to 512\n"),
        ],
    )
    def test_an_option_is_refused_with_a_sentence(self, llm, option, value, message):
        assert llm("-m", "gpt2rt", "-o", option, value, "Hello!", status=1) == f"Error: {message}"

    def test_every_option_has_its_help_and_its_default(self, llm):
        text = " ".join(llm("models", "--options", "-m", "gpt2rt").split())
        for name, default in SamplingParams(**CHAT_DEFAULTS).as_dict().items():
            kind, _, _, meaning = SAMPLING_OPTIONS[name]
            assert f"{name}: {kind.__name__} {meaning} Default: {default}." in text
        assert "max_tokens: int" in text
        assert "seed: int" in text

    def test_models_of_the_model_folder_have_their_names(self, llm, model, tmp_path):
        shutil.copy(DEMO, tmp_path / "mine.bin")
        listed = llm("models", GPT2RT_MODELS=str(tmp_path))
        assert [line for line in listed.splitlines() if "gpt2rt" in line] == ["Chat: gpt2rt", "Chat: gpt2rt/mine"]
        answer = llm("-m", "gpt2rt/mine", "-o", "seed", 1, "Hello!", GPT2RT_MODELS=str(tmp_path))
        assert answer == model.chat(HELLO, seed=1).text + "\n"

    def test_the_plugin_imports_neither_the_engine_nor_numpy(self):
        code = "import sys, llm; before = set(sys.modules); import gpt2rt.llm_plugin; print(*set(sys.modules) - before)"
        new = set(run("-c", code).split())
        assert {one for one in new if one.startswith("gpt2rt")} == {
            *("gpt2rt", "gpt2rt.llm_plugin", "gpt2rt.arguments", "gpt2rt.errors"),
            *("gpt2rt.model_folder", "gpt2rt.sampling"),
        }
        assert "numpy" not in new

    def test_an_answer_that_was_empty_leaves_no_gap(self, apart):
        assert apart(plugin_messages, [("user", "Hello!"), ("user", "Are you there?")]) == [
            {"role": "user", "content": "Hello!\nAre you there?"}
        ]

    def test_what_another_model_thought_is_left_out_and_other_parts_are_refused(self, apart):
        assert apart(
            plugin_messages, [("user", "Hello!"), ("assistant", "Hi."), ("user", "Bye.")], "Let me think."
        ) == [
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Bye."},
        ]
        assert apart(plugin_refusal) == "message: got a ToolResultPart, expected text (nothing else is supported)"


def plugin_messages(messages, thought=None):
    """Return what the plugin makes of messages. thought: what each answer began with."""
    from types import SimpleNamespace

    from llm.parts import Message, ReasoningPart, TextPart

    from gpt2rt.llm_plugin import messages_of

    listed = []
    for role, text in messages:
        thoughts = [ReasoningPart(text=thought)] if thought and role == "assistant" else []
        listed.append(Message(role=role, parts=[*thoughts, TextPart(text=text)]))
    return messages_of(SimpleNamespace(messages=listed))


def plugin_refusal():
    """Return what the plugin says of a tool's result."""
    from types import SimpleNamespace

    from llm.parts import Message, ToolResultPart

    from gpt2rt.errors import UsageError
    from gpt2rt.llm_plugin import messages_of

    try:
        messages_of(SimpleNamespace(messages=[Message(role="tool", parts=[ToolResultPart(name="clock", output="1")])]))
    except UsageError as error:
        return str(error)
