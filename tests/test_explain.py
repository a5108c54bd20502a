"""`Model.trace`: its numbers are the model's own, add up, and match references; what it can't do is a sentence."""

import math

import numpy as np
import pytest
import reference
from demo import demo_model
from random_models import random_tensors, write_model
from transformers_model import transformers_model

from gpt2rt import open_model
from gpt2rt._sampler import Sampler
from gpt2rt.errors import ContextFullError, UsageError, VocabularyError
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.sampling import SamplingParams

SHAPE = Hyperparameters(n_vocab=261, n_ctx=150, n_embd=30, n_head=3, n_layer=3)  # heads that do not fill a vector
TENSORS = random_tensors(SHAPE)
IDS = [(7 * i * i + 3 * i) % SHAPE.n_vocab for i in range(100)]  # more rows than the lens computes at once
KINDS = ("f32", "f16", "int8", "int4")
TEXT = "The cat sat on the"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return {weight type: Model} of a random model."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: open_model(write_model(folder / f"{kind}.bin", SHAPE, TENSORS, kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def expected():
    """Return logits, hidden states and attention of the text."""
    return reference.trace(TENSORS, SHAPE.n_head, IDS)


def assert_near(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# --- the numbers


def test_hidden_states_and_attention_match_the_reference(models, expected):
    _, hidden, attention = expected
    trace = models["f32"].trace(IDS)
    assert_near(trace.hidden, hidden)
    assert_near(trace.attention, attention)


def test_outputs_of_heads_are_what_attention_adds(models):
    trace = models["f32"].trace(IDS)
    assert trace.heads.shape == (SHAPE.n_layer, len(IDS), SHAPE.n_head, SHAPE.n_embd // SHAPE.n_head)
    for layer in range(SHAPE.n_layer):
        w, b = (TENSORS[f"h{layer}/attn/c_proj/{name}"] for name in "wb")
        out = trace.heads[layer].reshape(len(IDS), -1) @ w.reshape(w.shape[-2:]) + b
        assert_near(trace.hidden[layer] + out, trace.middle[layer])


def test_an_mlp_adds_to_the_middle_of_a_layer(models):
    trace = models["f32"].trace(IDS)
    for layer in range(SHAPE.n_layer):
        t = {name: TENSORS[f"h{layer}/{name}"] for name in ("ln_2/g", "ln_2/b", "mlp/c_fc/b", "mlp/c_proj/b")}
        fc, proj = (TENSORS[f"h{layer}/mlp/{name}/w"][0] for name in ("c_fc", "c_proj"))
        x = reference.layernorm(trace.middle[layer], t["ln_2/g"], t["ln_2/b"])
        x = reference.gelu(x @ fc + t["mlp/c_fc/b"]) @ proj + t["mlp/c_proj/b"]
        assert_near(trace.middle[layer] + x, trace.hidden[layer + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_score_bit_for_bit(models, kind):
    trace = models[kind].trace(IDS)
    assert math.isnan(trace.logprobs[0])
    assert trace.logprobs[1:].tolist() == models[kind].score(IDS)[1:]


@pytest.mark.parametrize("kv_type", ["f32", "f16", "int8"])
def test_a_trace_has_the_bits_of_its_kv_cache(models, kv_type):
    model = open_model(models["int8"].path, kv_type=kv_type)
    assert model.trace(IDS).logprobs[1:].tolist() == model.score(IDS)[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_row_of_the_lens_is_the_models_own_output(models, kind):
    trace = models[kind].trace(IDS, top=4)
    sequence = models[kind].sequence()
    sequence.append(IDS, len(IDS))
    order = np.argsort(-sequence.all_logits, axis=1, kind="stable")
    assert (trace.lens.top_ids[-1] == order[:, :4]).all()
    assert trace.lens.targets.tolist() == [*IDS[1:], order[-1, 0]]
    assert trace.lens.ranks[-1].tolist() == [
        row.tolist().index(target) for row, target in zip(order, trace.lens.targets, strict=True)
    ]
    assert trace.top(-1)[0][1] == sequence.next_logprob(int(order[-1, 0]))


def test_an_earlier_row_of_the_lens_is_the_head_applied_to_that_layer(models):
    trace = models["f32"].trace(IDS, top=3)
    for layer in range(SHAPE.n_layer + 1):
        x = reference.layernorm(trace.hidden[layer].astype(np.float64), TENSORS["ln_f/g"], TENSORS["ln_f/b"])
        logprobs = reference.log_softmax(x @ TENSORS["wte"].T)
        assert_near(trace.lens.logprobs[layer], logprobs[range(len(IDS)), trace.lens.targets])
        assert_near(trace.lens.top_logprobs[layer], -np.sort(-logprobs, axis=1)[:, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_tracing_changes_no_bit(models, kind):
    before = models[kind].score(IDS)
    models[kind].trace(IDS, ablate=[(0, 1), 2])
    models[kind].trace(IDS, max_tokens=3, seed=1)
    assert models[kind].score(IDS) == before


@pytest.mark.parametrize("kind", ["f32", "int8"])
@pytest.mark.parametrize("against", [None, 7])
def test_contributions_add_up_to_the_logit(models, kind, against):
    sequence = models[kind].sequence()
    sequence.append(IDS[:40])
    logits, token = sequence.logits, 13
    parts = models[kind].trace(IDS).contributions(39, token, against)
    assert parts.heads.shape == (SHAPE.n_layer, SHAPE.n_head, 1)
    wanted = logits[token] - (0 if against is None else logits[against])
    assert parts.total[0] == pytest.approx(wanted, abs=1e-4 if kind == "f32" else 0.1)


def test_a_heads_contribution_is_its_output_seen_by_the_head(models):
    trace = models["f32"].trace(IDS)
    x = trace.hidden[-1][-1].astype(np.float64)
    w = TENSORS["h1/attn/c_proj/w"][0][10:20]  # of head 1: (head_dim, n_embd)
    added = trace.heads[1, -1, 1] @ w
    expected = (added - added.mean()) / np.sqrt(x.var() + 1e-5) * TENSORS["ln_f/g"] @ TENSORS["wte"][5]
    assert trace.contributions(token=5).heads[1, 1, 0] == pytest.approx(expected, rel=1e-4)


# --- ablation


def without(parts):
    """Return tensors that do the same as leaving parts out: (layer, head), or (layer, None)."""
    changed = {name: values.copy() for name, values in TENSORS.items()}
    for layer, head in parts:
        if head is None:
            for name in ("attn/c_proj/w", "attn/c_proj/b", "mlp/c_proj/w", "mlp/c_proj/b"):
                changed[f"h{layer}/{name}"][:] = 0
        else:
            changed[f"h{layer}/attn/c_proj/w"][..., head * 10 : head * 10 + 10, :] = 0
    return changed


@pytest.mark.parametrize("parts", [[(1, 2)], [(0, 0), (2, 1)], [(1, None)], [(2, None), (0, 1)]], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_ablation_equals_a_model_whose_weights_are_zero_there(models, parts, threads, tmp_path):
    from gpt2rt._engine import Runtime

    model = open_model(models["f32"].path)
    model._runtime = Runtime(model._runtime.weights, threads)
    other = open_model(write_model(tmp_path / "changed.bin", SHAPE, without(parts), "f32"))
    found, wanted = model.trace(IDS, ablate=parts), other.trace(IDS)
    assert_near(found.hidden, wanted.hidden, 1e-6)
    assert found.ablated == parts
    change = models["f32"].trace(IDS).ablation([parts[0]], token=3)
    alone = models["f32"].trace(IDS, ablate=[parts[0]])
    before = models["f32"].trace([*IDS, 3]).logprobs[-1]
    after = models["f32"].trace([*IDS, 3], ablate=[parts[0]]).logprobs[-1]
    assert change == {parts[0]: after - before}
    assert alone.ablation([], token=3) == {}


def test_a_skipped_layer_leaves_the_residual_stream_as_it_is(models):
    trace = models["int8"].trace(IDS, ablate=[1])
    assert (trace.hidden[1] == trace.hidden[2]).all()
    assert (trace.middle[1] == trace.hidden[1]).all()


# --- sampling


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 0, "repetition_penalty": 1.3}, {"top_p": 0.3}])
def test_sampled_tokens_are_those_of_generate(models, options):
    trace = models["int8"].trace(IDS[:9], max_tokens=20, seed=5, **options)
    generation = models["int8"].generate(IDS[:9], max_tokens=20, seed=5, **options)
    generation.text()
    assert trace.ids[9:] == list(generation.tokens)
    assert trace.n_prompt == 9
    assert [step.position for step in trace.steps] == list(range(9, trace.n_tokens))


def test_the_random_number_lies_in_the_part_of_the_token_that_it_chose():
    trace = demo_model().trace(TEXT, max_tokens=12, seed=3, temperature=1.0)
    assert any(step.number is not None for step in trace.steps)
    for step in trace.steps:
        if step.number is None:
            assert step.n_candidates == 1
        else:
            assert step.low - 1e-12 <= step.number <= step.high + 1e-12
        assert step.high - step.low == pytest.approx(dict(step.after).get(step.token, step.high - step.low))


def test_choose_samples_what_sample_does():
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    one, other = Sampler(SamplingParams(top_k=9), 11), Sampler(SamplingParams(top_k=9), 11)
    for _ in range(50):
        token, number, candidates = one.choose(logits)
        assert token == other.sample(logits)
        reached = np.cumsum([probability for _, probability in candidates])
        assert candidates[int(np.argmax(reached > number))][0] == token
        assert sorted(candidates) == sorted(other.candidates(logits))


def test_the_number_is_none_where_there_is_no_choice():
    logits = np.arange(5, dtype=np.float32)
    assert Sampler(SamplingParams(temperature=0), 1).choose(logits) == (4, None, [(4, 1.0)])


def test_before_is_the_models_distribution_and_after_what_the_settings_left():
    trace = demo_model().trace(TEXT, max_tokens=1, seed=3, top_k=3, temperature=0.5)
    (step,) = trace.steps
    ids = trace.ids[:-1]
    sequence = demo_model().sequence()
    sequence.append(ids)
    top = np.argsort(-sequence.logits, kind="stable")[:10].tolist()
    assert [token for token, _ in step.before] == top
    assert [token for token, _ in step.after] == top[:3]
    assert sum(probability for _, probability in step.after) == pytest.approx(1)
    squares = [probability**2 for _, probability in step.before[:3]]  # temperature 1/2
    assert [probability for _, probability in step.after] == pytest.approx([one / sum(squares) for one in squares])


def test_sampling_ends_where_the_context_is_full(models):
    trace = models["f32"].trace([3] * 145, max_tokens=20, seed=1, temperature=0.9)
    assert trace.n_tokens <= SHAPE.n_ctx
    assert trace.steps[-1].position <= SHAPE.n_ctx


# --- sizes, tensors, sinks


def test_sizes_cover_all_parameters_and_bytes():
    model = demo_model()
    sizes = model.trace(TEXT).sizes
    assert sum(stage.parameters for stage in sizes) == model.hyperparameters.n_parameters
    assert sum(stage.n_bytes for stage in sizes) == sum(tensor.length for tensor in model.tensors)


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0), ("f16", 1e-3), ("int8", 2e-2), ("int4", 0.3)])
def test_a_tensor_is_what_was_written(models, kind, tolerance):
    for name in ("h1/mlp/c_fc/w", "wte", "wpe", "ln_f/g"):
        wanted = TENSORS[name]
        wanted = wanted[0].T if wanted.ndim == 3 else wanted
        assert np.abs(models[kind].tensor(name) - wanted).max() <= tolerance * np.abs(wanted).max()
    assert (models[kind].tensor("wte", [7, 3]) == models[kind].tensor("wte")[[7, 3]]).all()


def test_sinks_are_the_share_of_the_first_token(models):
    trace = models["f32"].trace(IDS)
    assert trace.sinks == pytest.approx(trace.attention[:, :, 1:, 0].mean(-1), abs=1e-6)
    assert np.isnan(models["f32"].trace(IDS[:1]).sinks).all()


def test_pieces_join_to_the_text():
    trace = demo_model().trace("Grüße, 🐈!")
    assert b"".join(trace.pieces).decode() == trace.text == "Grüße, 🐈!"


def test_progress_counts_the_layers(models):
    seen = []
    models["f32"].trace(IDS[:2], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 4) for i in range(5)]


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([""], {}, UsageError, "text: got an empty text, expected at least one token"),
        ([[1] * 151], {}, ContextFullError, "text: 151 tokens, the model has 150 positions (shorten it)"),
        ([[1, 999]], {}, VocabularyError, "token 999: out of range, expected 0 to 260"),
        (["a"], {"ablate": [(0, 3)]}, UsageError, "head 3: unknown, the model has heads 0 to 2"),
        (["a"], {"ablate": [3]}, UsageError, "layer 3: unknown, the model has layers 0 to 2"),
        (["a"], {"ablate": ["L1"]}, UsageError, "ablate: got 'L1', expected (layer, head), or a layer"),
        (["a"], {"top": 33}, UsageError, "top: got 33, expected a whole number from 1 to 32"),
        (
            ["a"],
            {"ablate": [1], "max_tokens": 1},
            UsageError,
            "ablate: a text can't be sampled without parts of the model (trace the sampled text)",
        ),
    ],
)
def test_mistakes_are_sentences(models, arguments, options, error, message):
    with pytest.raises(error) as raised:
        models["f32"].trace(*arguments, **options)
    assert str(raised.value) == message


def test_a_position_or_token_that_does_not_exist_is_refused(models):
    trace = models["f32"].trace(IDS[:3])
    with pytest.raises(UsageError, match="position 3: unknown, the text has tokens 0 to 2"):
        trace.contributions(3)
    with pytest.raises(UsageError, match="token: got 261, expected a whole number from 0 to 260"):
        trace.contributions(0, 261)
    with pytest.raises(UsageError, match=r"tensor 'wtf': unknown \(Model.tensors lists the names\)"):
        models["f32"].tensor("wtf")


# --- transformers


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, Hyperparameters(300, 64, 48, 4, 4)], ids=str)
def test_a_trace_matches_transformers(shape, tmp_path):
    tensors = random_tensors(shape, seed=2)
    other, torch = transformers_model(tensors, shape.n_head, attn_implementation="eager")
    ids = np.random.default_rng(1).integers(shape.n_vocab, size=60).tolist()
    with torch.no_grad():
        wanted = other(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    trace = open_model(write_model(tmp_path / "x.bin", shape, tensors)).trace(ids)
    assert_near(trace.attention, torch.cat(wanted.attentions).numpy())
    hidden = torch.cat(wanted.hidden_states).numpy()
    assert_near(trace.hidden[:-1], hidden[:-1])  # theirs ends with the output of ln_f
    assert_near(
        reference.layernorm(trace.hidden[-1].astype(np.float64), tensors["ln_f/g"], tensors["ln_f/b"]), hidden[-1]
    )
    logprobs = torch.log_softmax(wanted.logits[0].double(), -1).numpy()
    assert_near(trace.logprobs[1:], logprobs[np.arange(59), ids[1:]])
