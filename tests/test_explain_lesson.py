"""The lesson of `gpt2rt explain --html`: one file with a strict policy, whose numbers are the trace's."""

import base64
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from browser import watched_page
from demo import demo_model
from random_models import random_tensors, write_model

from gpt2rt import open_model
from gpt2rt.errors import UsageError
from gpt2rt.explain.lesson import LEVELS, attention_text, html_page, lesson_data, most_tokens
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.sampling import SamplingParams

TEXT = "Once upon a time, a little dog"
LIMIT = 2_000_000  # bytes of a page
BLOCKS = re.compile(r"<(style|script)( type=\"[a-z/]+\")?( id=\"data\")?>(.*?)</\1>", re.DOTALL)


@pytest.fixture(scope="module")
def trace():
    return demo_model().trace(TEXT, max_tokens=4, seed=7)


@pytest.fixture(scope="module")
def data(trace):
    return lesson_data(trace, SamplingParams())


@pytest.fixture(scope="module")
def page(data):
    return html_page(data, f"What the model saw: {TEXT}")


# --- the file


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    directives = dict(one.strip().split(" ", 1) for one in policy.split(";"))
    wanted = {}
    for kind, _, is_data, content in BLOCKS.findall(page):
        if not is_data:
            wanted[f"{kind}-src"] = f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert directives == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **wanted}


def test_nothing_in_it_names_another_place(page):
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(|\bimport\b", page)


def test_a_text_cannot_close_its_block():
    trace = demo_model().trace("</script><script>alert(1)</script><!--")
    page = html_page(lesson_data(trace, SamplingParams()), trace.text)
    assert "alert(1)</script>" not in page
    assert len(BLOCKS.findall(page)) == 3


def test_its_numbers_are_those_of_the_trace(page, trace):
    (content,) = [content for _, _, is_data, content in BLOCKS.findall(page) if is_data]
    found = json.loads(content)
    assert [token["id"] for token in found["tokens"]] == trace.ids
    assert [token["p"] for token in found["tokens"]][1:] == pytest.approx(np.exp(trace.logprobs[1:]), rel=1e-3)
    assert [[cell[0] for cell in row] for row in found["lens"]] == trace.lens.top_ids[..., 0].tolist()
    assert found["steps"][0]["number"] == trace.steps[0].number
    heads = [one["heads"] for one in found["contributions"]]
    parts = trace.contributions(3, trace.top(3)[0][0], trace.top(3)[1][0])
    assert np.array(heads[3]) == pytest.approx(parts.heads[..., 0], abs=1e-3)


def test_attention_is_stored_to_a_64th_of_its_root(trace):
    text = attention_text(trace.attention)
    n = trace.n_tokens
    size = n * (n + 1) // 2
    n_head = demo_model().hyperparameters.n_head
    levels = np.array([LEVELS.index(c) for c in text[(3 * n_head + 2) * size :][:size]])
    rows, columns = np.tril_indices(n)
    assert levels / 63 == pytest.approx(np.sqrt(trace.attention[3, 2, rows, columns]), abs=1 / 126 + 1e-6)


def test_a_branch_is_what_generate_writes(data, trace):
    token = trace.top(2)[1][0]
    generation = demo_model().generate([*trace.ids[:3], token], max_tokens=12, seed=0)
    generation.text()
    assert data["branches"][2][token] == list(generation.tokens)


def test_the_longest_text_of_124m_fits():
    shape = Hyperparameters(n_vocab=300, n_ctx=512, n_embd=144, n_head=12, n_layer=12)
    n = most_tokens(shape.n_layer, shape.n_head)
    assert n >= 120
    assert n * (n + 1) // 2 * 144 < LIMIT * 0.7


@pytest.mark.slow
def test_the_longest_page_has_at_most_two_megabytes(tmp_path):
    shape = Hyperparameters(n_vocab=300, n_ctx=512, n_embd=144, n_head=12, n_layer=12)
    model = open_model(write_model(tmp_path / "x.bin", shape, random_tensors(shape), "int8"))
    n = most_tokens(shape.n_layer, shape.n_head)
    page = html_page(lesson_data(model.trace([1] * n), SamplingParams()), "x")
    assert len(page.encode()) <= LIMIT


def test_a_longer_text_is_refused():
    most = most_tokens(*demo_model().hyperparameters[4:2:-1])
    trace = demo_model().trace([5] * (most + 1))
    with pytest.raises(UsageError, match=rf"text: {most + 1} tokens, a page has room for {most} of this model"):
        lesson_data(trace, SamplingParams())


def test_a_lesson_is_of_the_whole_model():
    with pytest.raises(UsageError, match="ablate: a lesson is of the whole model"):
        lesson_data(demo_model().trace("Hi", ablate=[1]), SamplingParams())


def test_the_command_writes_it(cli, tmp_path):
    demo_model()
    path = tmp_path / "lesson.html"
    code, out, err = cli("explain", "Hi", "-n", 1, "--seed", 7, "--html", path)
    assert (code, out) == (0, "")
    assert err == f"{path}: 3 tokens, {path.stat().st_size / 1e6:.2f} MB\n"
    code, _, err = cli("explain", "Hi", "--html", path / "none" / "x.html")
    assert code == 1
    assert err.startswith(f"gpt2rt: {path / 'none' / 'x.html'}: ")
    assert cli("explain", "Hi", "--html", path, "--json")[0] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files can't be limited")
def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path):
    demo_model()
    path = tmp_path / "lesson.html"
    path.write_text("before")
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); from gpt2rt.__main__ import main; main()"
    line = [sys.executable, "-c", limited, "explain", "Hi", "--html", path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"gpt2rt: {path}: can't be written: File too large\n"
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# --- in a browser


@pytest.fixture(
    params=[{}, {"viewport": {"width": 360, "height": 700}, "color_scheme": "dark"}], ids=["light", "phone"]
)
def lesson(request, browser, page, tmp_path):
    """The page, opened as a file."""
    path = tmp_path / "lesson.html"
    path.write_text(page, encoding="utf-8")
    with watched_page(browser, path.as_uri(), **request.param) as opened:
        opened.goto(path.as_uri())
        opened.wait_for_selector("section")
        yield opened


@pytest.mark.slow
def test_the_page_shows_the_text_and_its_probabilities(lesson, trace):
    assert lesson.locator(".text").inner_text() == trace.text
    token, logprob = trace.top(trace.n_prompt - 1)[0]
    bar = lesson.locator(".bars button").first
    assert demo_model().tokenizer.decode([token]).strip() in bar.inner_text()
    assert f"{np.exp(logprob) * 100:.0f}%" in bar.inner_text() or f"{np.exp(logprob) * 100:.1f}%" in bar.inner_text()
    assert lesson.locator(".lens tbody tr").count() == demo_model().hyperparameters.n_layer + 1
    assert lesson.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_the_random_number_is_explained(lesson, trace):
    assert f"The random number {trace.steps[0].number:.4f} fell on" in lesson.locator("section").nth(1).inner_text()


@pytest.mark.slow
def test_the_arrow_keys_step_through_the_text(lesson, trace):
    lesson.locator(".token.at").focus()
    lesson.keyboard.press("ArrowLeft")
    assert f"{trace.n_prompt - 1} of {trace.n_tokens}" in lesson.locator("section").first.inner_text()


@pytest.mark.slow
def test_pointing_shows_a_token_and_leaving_shows_the_chosen_one_again(lesson, trace):
    lesson.locator(".token").nth(2).hover()
    assert f"3 of {trace.n_tokens}" in lesson.locator("section").first.inner_text()
    lesson.locator("h1").hover()
    assert f"{trace.n_prompt} of {trace.n_tokens}" in lesson.locator("section").first.inner_text()
    lesson.locator(".token").nth(2).click()
    lesson.locator("h1").hover()
    assert f"3 of {trace.n_tokens}" in lesson.locator("section").first.inner_text()


@pytest.mark.slow
def test_a_click_on_a_prediction_branches(lesson, data, trace):
    at = trace.n_prompt - 1
    token = trace.top(at)[1][0]
    lesson.locator(".bars button").nth(1).click()
    written = demo_model().tokenizer.decode([token, *data["branches"][at][token]])
    assert lesson.locator(".branch").inner_text().replace("\xa0", " ") == f"{TEXT}{written} …"
    lesson.locator(".bars button").nth(1).click()
    assert lesson.locator(".branch").count() == 0


@pytest.mark.slow
def test_a_head_can_be_chosen_and_the_first_token_shown(lesson):
    lesson.locator('button[aria-label="layer 4, head 2"]').first.click()
    assert lesson.get_by_role("img", name="Attention of layer 4, head 2").count() == 1
    before = lesson.locator(".side .bars").inner_text()
    lesson.get_by_label("Leave out the first token").uncheck()
    assert lesson.locator(".side .bars").inner_text() != before
    pixel = "() => document.querySelector('.layers canvas').getContext('2d').getImageData(0, 0, 1, 1).data[3]"
    assert lesson.evaluate(pixel) == 255


@pytest.mark.slow
def test_axe_core_finds_nothing(lesson):
    path = os.environ.get("GPT2RT_AXE")
    if not path or not os.path.exists(path):
        pytest.skip("GPT2RT_AXE does not name axe-core's axe.min.js")
    lesson.locator(".bars button").nth(1).click()
    lesson.mouse.move(1, 1)
    lesson.evaluate(pathlib.Path(path).read_text(encoding="utf-8"))
    found = lesson.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert not [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.slow
def test_a_page_of_124ms_size_opens_at_once(browser, tmp_path):
    shape = Hyperparameters(n_vocab=300, n_ctx=512, n_embd=144, n_head=12, n_layer=12)
    model = open_model(write_model(tmp_path / "x.bin", shape, random_tensors(shape), "int8"))
    path = tmp_path / "lesson.html"
    path.write_text(html_page(lesson_data(model.trace(range(60)), SamplingParams()), "x"), encoding="utf-8")
    with watched_page(browser, path.as_uri()) as page:
        page.goto(path.as_uri())
        page.wait_for_selector("section")
        took = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        assert page.evaluate(took) < 3000
