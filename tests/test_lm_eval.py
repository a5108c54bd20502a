"""lm-evaluation-harness and gpt2rt serve: its figures are those of the library, without a tokenizer of its own."""

import json
import math
import pathlib

import pytest
from clients import needs, offline, run, serving_process
from demo import DEMO, demo_model

pytest.importorskip("starlette", reason="the extra 'server' is not installed")

ROOT = pathlib.Path(__file__).parents[1]
# The command, where torch and transformers are not installed.
LM_EVAL = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = ("torch", "transformers")
PathFinder.find_spec = staticmethod(lambda name, *more: None if name in hidden else find(name, *more))
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""
FACTS = [
    {"question": "User: Hello!\nBot:", "choices": [" Hello! How are you?", " Seven."], "answer": 0},
    {"question": "Once upon", "choices": [" a time", " a table", " the"], "answer": 0},
    {"question": "“Où est le café ☕?” 你", "choices": ["好", " 🙂", "!"], "answer": 0},
    {"question": "", "choices": ["The", "Qx"], "answer": 0},
    # Longer than the context: lm_eval leaves out the beginning.
    {
        "question": " ".join(["She opened the door and saw her friend."] * 80),
        "choices": [" She smiled.", " It"],
        "answer": 0,
    },
]
UNTIL = ["\n", "!", "?", ".", ";", " and"]
SHORT = "It was a cold day in the old town. The café was closed, and nobody walked along the river."
MOST_TOKENS = 20


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


@pytest.fixture(scope="module", params=[(1, 1), (4, 1), (1, 4), (2, 3)], ids=lambda two: f"{two[0]}x{two[1]}")
def evaluation(request, server, model, tmp_path_factory):
    """The results and the samples of an evaluation; params: the size of batches, and how many run together."""
    batch_size, num_concurrent = request.param
    folder = tmp_path_factory.mktemp("lm_eval")
    for name, (data, settings) in tasks().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in data), encoding="utf-8")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test",
            **settings,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    options = {
        "model": "demo",
        "base_url": f"{server}/v1/completions",
        "max_length": model.hyperparameters.n_ctx,
        "num_concurrent": num_concurrent,
        "max_retries": 1,
    }
    arguments = ["run", "--model", "local-completions", "--include_path", folder, "--tasks", ",".join(tasks())]
    arguments += ["--model_args", ",".join(f"{name}={value}" for name, value in options.items())]
    arguments += ["--batch_size", batch_size, "--output_path", folder / "out", "--log_samples"]
    run("-c", LM_EVAL, *arguments, HF_HOME=str(folder / "cache"))
    (results,) = (folder / "out").rglob("results_*.json")
    found = {"results": json.loads(results.read_text(encoding="utf-8"))["results"]}
    for name in tasks():
        (samples,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        found[name] = [one["resps"] for one in sorted(lines, key=lambda one: one["doc_id"])]
    return found


@needs("lm_eval")
@pytest.mark.slow
class TestLmEval:
    def test_log_likelihoods_are_those_of_score(self, evaluation, model):
        for fact, found in zip(FACTS, evaluation["facts"], strict=True):
            expected = [log_likelihood(model, fact["question"], choice) for choice in fact["choices"]]
            assert [float(one[0][0]) for one in found] == pytest.approx(expected, abs=1e-6)

    def test_a_choice_is_greedy_if_the_model_would_generate_it(self, evaluation, model):
        for fact, found in zip(FACTS, evaluation["facts"], strict=True):
            expected = [is_greedy(model, fact["question"], choice) for choice in fact["choices"]]
            assert [one[0][1] for one in found] == [str(one) for one in expected]

    def test_bits_per_byte_of_a_text_are_those_of_gpt2rt_perplexity(self, evaluation, cli, tmp_path):
        (tmp_path / "short.txt").write_text(SHORT, encoding="utf-8")
        code, out, _ = cli("perplexity", DEMO, tmp_path / "short.txt", "--json")
        assert code == 0
        (figures,) = json.loads(out)["texts"]
        found = evaluation["results"]["short"]
        assert found["bits_per_byte,none"] == pytest.approx(figures["bits_per_byte"], rel=1e-6)
        n_words = len(SHORT.split())
        expected = math.exp(figures["loss"] * figures["n_tokens"] / n_words)
        assert found["word_perplexity,none"] == pytest.approx(expected, rel=1e-6)

    def test_a_text_of_several_windows_has_the_log_likelihood_of_its_windows(self, evaluation, model):
        ((found,),) = evaluation["long"][0]
        expected = sum(sum(model.score(ids)[first:]) for ids, first in rolling_windows(model, long_text()))
        assert float(found) == pytest.approx(expected, abs=1e-6 * abs(expected))

    def test_texts_end_at_the_strings_of_the_task(self, evaluation, model):
        expected = [
            model.generate(fact["question"], max_tokens=MOST_TOKENS, temperature=0, stop=UNTIL).text()
            for fact in FACTS[:3]
        ]
        assert [found[0][0] for found in evaluation["answers"]] == expected
        assert not any(stop in text for text in expected for stop in UNTIL)


def long_text():
    return (ROOT / "converter" / "prose.txt").read_text(encoding="utf-8")[:5000]


def tasks():
    """Return {name: (documents, settings)} of tasks without a download."""
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    }
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    generation = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": UNTIL, "max_gen_toks": MOST_TOKENS},
        "metric_list": [{"metric": "exact_match"}],
    }
    return {
        "facts": (FACTS, choice),
        "short": ([{"text": SHORT}], rolling),
        "long": ([{"text": long_text()}], rolling),
        "answers": (FACTS[:3], generation),
    }


def pair(model, context, continuation):
    """Return the ids of a context and of its continuation, which are encoded as one text, as lm_eval does."""
    if not context:
        return [model.tokenizer.bos_token_id], model.tokenizer.encode(continuation)
    n = len(model.tokenizer.encode(context))
    whole = model.tokenizer.encode(context + continuation)
    return whole[:n], whole[n:]


def log_likelihood(model, context, continuation):
    before, ids = pair(model, context, continuation)
    both = [*before, *ids][1 - model.hyperparameters.n_ctx :]  # lm_eval keeps a position free
    return sum(model.score(both)[-len(ids) :])


def is_greedy(model, context, continuation):
    before, ids = pair(model, context, continuation)
    kept = before[len(ids) + 1 - model.hyperparameters.n_ctx :]
    greedy = model.generate(kept, max_tokens=len(ids), temperature=0)
    greedy.text()
    return greedy.tokens == ids


def rolling_windows(model, text):
    """Yield (ids, index of the first one that counts) of lm_eval's windows: each reads one token before its own, but
    the last one reads as many as there is room for."""
    size = model.hyperparameters.n_ctx - 2
    ids = [model.tokenizer.bos_token_id, *model.tokenizer.encode(text)]
    assert len(ids) > 2 * size
    for first in range(1, len(ids), size):
        end = min(first + size, len(ids))
        begin = end - size - 1
        yield ids[begin:end], first - begin
