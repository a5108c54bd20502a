"""Perplexity: compared with the numpy reference, and the output of the command."""

import json
import lzma
import math

import numpy as np
import pytest
import reference
from demo import DEMO, demo_model
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_tensors, write_model

from gpt2rt import UsageError, open_model
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.perplexity import Tally, lambada, perplexity, windows

SHAPE = Hyperparameters(n_vocab=300, n_ctx=24, n_embd=32, n_head=2, n_layer=2)
TEXT = "The quick brown fox jumps over the lazy dog, and the naïve dog sleeps on. "


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same random tensors in f32 and in int8."""
    folder, tensors = tmp_path_factory.mktemp("models"), random_tensors(SHAPE)
    return [open_model(write_model(folder / f"{t}.bin", SHAPE, tensors, t), n_threads=1) for t in ("f32", "int8")]


def expected_losses(tokens, stride, first=1):
    """Return each token's loss by the reference, with windows of n_ctx."""
    losses, tensors, begin = [], random_tensors(SHAPE), 0
    while first < len(tokens):
        end = min(len(tokens), begin + SHAPE.n_ctx + 1)
        logits = reference.logits(tensors, SHAPE.n_head, tokens[begin : end - 1])
        losses += [
            np.logaddexp.reduce(logits[i - 1 - begin]) - logits[i - 1 - begin][tokens[i]] for i in range(first, end)
        ]
        begin, first = begin + stride, end
    return np.array(losses)


@given(st.integers(0, 100), st.integers(1, 12), st.data())
def test_windows_score_each_token_once_after_enough_others(n_tokens, n_ctx, data):
    stride = data.draw(st.integers(1, n_ctx))
    scored = []
    for begin, end, first in windows(n_tokens, n_ctx, stride):
        assert end - 1 - begin <= n_ctx
        assert first == 1 or first - begin >= n_ctx - stride
        scored += range(first, end)
    assert scored == list(range(1, n_tokens))


@pytest.mark.parametrize("stride", [None, 1, 7, 24])
def test_loss_matches_the_reference(models, stride):
    model = models[0]
    result = perplexity(model, [("fox", TEXT)], stride=stride)
    expected = expected_losses(list(TEXT.encode()), stride or 12)  # the first token has none before it
    found = result["texts"][0]
    assert result["stride"] == (stride or 12)
    assert found["n_tokens"] == found["n_bytes"] == len(TEXT.encode()) - 1
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert found["loss_error"] == pytest.approx(expected.std(ddof=1) / math.sqrt(len(expected)), rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(expected.mean()), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(expected.mean() / math.log(2), rel=1e-5)


def transformers_losses(tokens, stride):
    """Each token's loss by the oracle as the recipe of transformers scores it, and that recipe's own mean."""
    losses, mean, total, previous_end = [], 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + SHAPE.n_ctx, len(tokens))
        window, n_new = tokens[begin:end], end - previous_end
        logits = reference.logits(random_tensors(SHAPE), SHAPE.n_head, window).astype(np.float64)
        # Position i predicts token i + 1 of the window; the labels of the old tokens are masked.
        new = [
            np.logaddexp.reduce(logits[i]) - logits[i][window[i + 1]]
            for i in range(len(window) - 1)
            if i + 1 >= len(window) - n_new
        ]
        losses += new
        mean, total = mean + np.mean(new) * (n_new - 1), total + n_new - 1
        previous_end = end
        if end == len(tokens):
            break
    return np.array(losses), mean / total


@pytest.mark.parametrize("stride", [5, 12, 23, 24])
def test_without_bos_the_loss_is_that_of_the_recipe_of_transformers(models, stride):
    text = TEXT + TEXT[:7]
    result = perplexity(models[0], [("fox", text)], stride=stride, bos=False)
    expected, recipe_mean = transformers_losses(list(text.encode()), stride)
    found = result["texts"][0]
    assert result["bos"] is False
    assert found["n_tokens"] == len(expected)
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(recipe_mean, rel=1e-2)  # it weights each window as if it had a token less


def test_without_bos_the_first_token_is_not_scored():
    model, text = demo_model(), "User: Hello!\nBot:"
    found = perplexity(model, [("hello", text)], bos=False)["texts"][0]
    assert (found["n_tokens"], found["n_bytes"]) == (6, 13)
    assert found["loss"] == pytest.approx(-np.mean(model.score(text)[1:]), rel=1e-6)


def test_without_bos_a_text_of_one_token_is_refused(models):
    with pytest.raises(UsageError, match=r"x: no token to score \(use a longer text\)"):
        perplexity(models[0], [("x", "a")], bos=False)


def test_no_bos_is_an_option(cli, tmp_path):
    demo_model()
    (tmp_path / "a.txt").write_text("User: Hello!\nBot:")
    code, out, _ = cli("perplexity", DEMO, tmp_path / "a.txt", "--no-bos")
    assert code == 0
    assert out.startswith("windows of 512 tokens, stride 256, no end-of-text token before the text\n")


def test_first_token_follows_end_of_text():
    model = demo_model()
    found = perplexity(model, [("hello", "User: Hello!\nBot:")])["texts"][0]
    assert (found["n_tokens"], found["n_bytes"]) == (7, 17)


def test_special_tokens_count_as_tokens_without_bytes():
    result = perplexity(demo_model(), [("hello", "User: Hello!\nBot:<|endoftext|>")], special=True)
    assert (result["texts"][0]["n_tokens"], result["texts"][0]["n_bytes"]) == (8, 17)


def test_total_is_over_all_tokens(models):
    result = perplexity(models[0], [("one", TEXT), ("two", TEXT[:9] * 7)])
    one, two, total = *result["texts"], result["total"]
    assert total["n_tokens"] == one["n_tokens"] + two["n_tokens"]
    mean = (one["loss"] * one["n_tokens"] + two["loss"] * two["n_tokens"]) / total["n_tokens"]
    assert total["loss"] == pytest.approx(mean, rel=1e-12)


def test_divergence_matches_the_distributions():
    random = np.random.default_rng(0)
    q, p = (random.standard_normal(1000).astype(np.float32) * 3 - 100 for _ in range(2))
    tally = Tally()
    tally.add(7, q, p)
    log_q, log_p = (x - np.logaddexp.reduce(x.astype(np.float64)) for x in (q, p))
    assert tally.divergences[0] == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(), rel=1e-5)
    assert (tally.losses[0], tally.reference_losses[0]) == pytest.approx((-log_q[7], -log_p[7]), rel=1e-6)


def test_a_model_does_not_diverge_from_itself(models):
    found = perplexity(models[1], [("fox", TEXT)], against=models[1])["texts"][0]["against"]
    assert found["loss_difference"] == found["mean_kl"] == found["largest_kl"] == 0
    assert found["same_top"] == 1


def test_int8_diverges_a_little_from_f32(models):
    found = perplexity(models[1], [("fox", TEXT)], against=models[0])["texts"][0]
    other = found["against"]
    assert other["loss"] == perplexity(models[0], [("fox", TEXT)])["texts"][0]["loss"]
    assert other["loss_difference"] == pytest.approx(found["loss"] - other["loss"], abs=1e-12)
    assert 0 < other["mean_kl"] < other["largest_kl"] < 0.1
    assert 0.5 < other["same_top"] <= 1


def test_progress_ends_at_the_total(models):
    seen = []
    perplexity(models[0], [("fox", TEXT)], progress=lambda done, total: seen.append((done, total)))
    n = len(TEXT.encode()) - 1
    assert seen[-1] == (n, n)
    assert seen == sorted(seen)


def test_models_with_different_vocabularies_are_refused(models):
    with pytest.raises(UsageError, match=r": got a vocabulary of 8192 tokens, expected 300, as in "):
        perplexity(models[0], [("fox", TEXT)], against=demo_model())


def test_last_word_is_split_at_the_last_space(models):
    lines = json.dumps({"text": "a dog sees its cat \n"}) + "\n\n" + json.dumps({"text": "x " * 40 + "end"})
    result = lambada(models[0], lines, against=models[0])
    word = expected_losses(list(b"a dog sees its cat"), 24)[-4:].sum()
    long = expected_losses(list(b"x " * 40 + b"end")[-25:], 24)[-4:].sum()
    assert result["n_passages"] == 2
    assert result["perplexity"] == pytest.approx(math.exp((word + long) / 2), rel=1e-4)
    assert result["against"] == {"accuracy": result["accuracy"], "perplexity": result["perplexity"]}


def test_a_word_is_predicted_if_each_token_is_the_most_likely():
    model = demo_model()
    sequence = model.sequence()
    sequence.append(model.tokenizer.encode("User: Hello!\nBot: Hi"))
    word = model.tokenizer.decode([int(sequence.logits.argmax())])
    lines = [json.dumps({"text": f"User: Hello!\nBot: Hi{last}"}) for last in (word, " zebra")]
    assert word.startswith(" ")
    assert lambada(model, "\n".join(lines))["accuracy"] == 0.5


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"text": 3}', '{"text": "word"}', '{"text": " word"}', "{}"])
def test_lines_that_are_not_passages_are_refused(models, line):
    with pytest.raises(UsageError, match=r"lambada: line 2: expected"):
        lambada(models[0], '{"text": "two words"}\n' + line)


# --- the command line


def test_command_reads_plain_and_compressed_files_and_standard_input(cli, tmp_path, models):
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.xz"
    plain.write_text(TEXT, encoding="utf-8")
    packed.write_bytes(lzma.compress(TEXT.encode()))
    code, out, err = cli("perplexity", models[0].path, plain, packed, "-", "--json", typed=TEXT)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert len({text["loss"] for text in result["texts"]}) == 1
    assert result["total"]["n_tokens"] == 3 * result["texts"][0]["n_tokens"]


def test_command_prints_a_table(cli, tmp_path, models):
    text = tmp_path / "a.txt"
    text.write_text(TEXT, encoding="utf-8")
    code, out, _ = cli("perplexity", models[1].path, text, "--against", models[0].path)
    assert code == 0
    assert out.startswith("windows of 24 tokens, stride 12\ntext ")
    assert "largest KL" in out
    code, out, _ = cli("perplexity", models[1].path, text, "--markdown")
    assert out.startswith("| text | tokens | loss |")


def test_command_prints_a_row_for_each_model_of_lambada(cli, tmp_path, models):
    text = tmp_path / "a.jsonl"
    text.write_text(json.dumps({"text": "a dog sees its cat"}) + "\n", encoding="utf-8")
    paths = [models[1].path, models[0].path]
    code, out, _ = cli("perplexity", paths[0], text, "--task", "lambada", "--against", paths[1])
    found = lambada(models[1], text.read_text(), against=models[0])
    rows = [line.split() for line in out.splitlines()]
    assert (code, rows[0]) == (0, ["model", "passages", "accuracy", "perplexity"])
    for row, path, one in zip(rows[-2:], paths, (found, found["against"]), strict=True):
        assert row == [path, "1", f"{one['accuracy']:.2%}", f"{one['perplexity']:.3f}"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"\xff", [], "TEXT: can't be read as UTF-8 text: 'utf-8' codec"),
        (b"", [], "TEXT: no token to score (use a longer text)\n"),
        (b"word", ["--stride", "0"], "stride: got 0, expected 1 to 512, the size of the window\n"),
        (
            b"word",
            ["--task", "lambada", "--special"],
            "--task lambada: got --stride, --special, --no-bos or several files (leave them out)",
        ),
        (b"", ["--task", "lambada"], 'TEXT: no passages, expected a JSON object with a "text" on each line\n'),
    ],
)
def test_mistakes_give_one_line_messages(cli, tmp_path, content, arguments, message):
    demo_model()
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    code, out, err = cli("perplexity", DEMO, text, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("gpt2rt: " + message.replace("TEXT", str(text)))


def test_a_truncated_compressed_file_is_refused(cli, tmp_path):
    demo_model()
    text = tmp_path / "a.xz"
    text.write_bytes(lzma.compress(TEXT.encode())[:-5])
    code, _, err = cli("perplexity", DEMO, text)
    assert code == 2
    assert "a.xz: can't be read as UTF-8 text: " in err


@pytest.mark.parametrize("scale", [1e4, math.nan, math.inf])
def test_a_broken_model_gives_json_or_an_error(scale, cli, tmp_path):
    tensors = random_tensors(SHAPE)
    tensors["ln_f/g"] = tensors["ln_f/g"] * np.float32(scale)
    path = write_model(tmp_path / "broken.bin", SHAPE, tensors)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    code, out, err = cli("perplexity", path, tmp_path / "text.txt", "--json")
    if math.isfinite(scale):
        found = json.loads(out, parse_constant=pytest.fail)
        assert (code, found["texts"][0]["perplexity"]) == (0, None)
        assert cli("perplexity", path, tmp_path / "text.txt")[0] == 0
    else:
        assert (code, out) == (1, "")
        assert err.startswith("gpt2rt: logits are not finite: the weights are damaged")


@pytest.mark.parametrize(("n_ctx", "n_tokens"), [(600, 900), (257, 600), (1024, 513)])
def test_the_loss_of_long_windows_is_that_of_their_tokens_one_by_one(tmp_path, n_ctx, n_tokens):
    shape = Hyperparameters(n_vocab=300, n_ctx=n_ctx, n_embd=32, n_head=2, n_layer=1)
    model = open_model(write_model(tmp_path / "long.bin", shape, random_tensors(shape)), n_threads=1)
    tokens = [(7 * i * i + 3 * i) % 127 for i in range(n_tokens)]  # no period that divides the rows of a call
    found = perplexity(model, [("text", bytes(tokens).decode())], stride=n_ctx)["texts"][0]
    losses = []
    for begin, end, first in windows(n_tokens, n_ctx, n_ctx):
        sequence = model.sequence()
        for position in range(begin, end - 1):
            sequence.append([tokens[position]])
            if position + 1 >= first:
                losses.append(-sequence.next_logprob(tokens[position + 1]))
    assert found["n_tokens"] == len(losses) == n_tokens - 1
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
