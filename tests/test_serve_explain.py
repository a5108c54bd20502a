"""The lesson over HTTP, and its page in a browser."""

import pytest
from browser import watched_page
from demo import demo_model
from serving import serving

from gpt2rt.explain.lesson import lesson_data
from gpt2rt.sampling import SamplingParams

TEXT = "She put the key in the lock"


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}) as server:
        yield server


def test_a_lesson_is_that_of_the_library(server):
    answer = server.post("/explain/lesson", text=TEXT, max_tokens=3, seed=5)
    assert answer.status == 200
    trace = demo_model().trace(TEXT, max_tokens=3, seed=5)
    expected = lesson_data(trace, SamplingParams())
    found = answer.json
    for name in ("tokens", "attention", "sinks", "contributions", "ablations", "n_prompt", "seed"):
        assert found[name] == expected[name]
    for position, own in found["branches"].items():
        assert own == {str(token): rest for token, rest in expected["branches"][int(position)].items()}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": ""}, "text: got an empty text, expected at least one token"),
        ({"text": "a b " * 60}, "tokens, expected at most 96 (shorten it)"),
        ({"text": "a", "max_tokens": 33}, "max_tokens"),
        ({"text": "a", "model": "gpt-4"}, "gpt-4"),
        ({}, "text"),
    ],
)
def test_mistakes_are_sentences(server, body, message):
    answer = server.post("/explain/lesson", **body)
    assert 400 <= answer.status < 500
    assert message in answer.error["message"]


def test_a_key_is_needed():
    with serving({"demo": demo_model()}, api_key="key") as server:
        assert server.post("/explain/lesson", text=TEXT).status == 401


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"viewport": {"width": 320, "height": 700}, "color_scheme": "dark"}], ids=["wide", "phone"]
)
def test_the_page_explains_a_text(browser, page_url, options):
    with watched_page(browser, page_url, **options) as page:
        page.goto("explain")
        page.get_by_role("textbox", name="Text").fill(TEXT)
        page.get_by_label("Tokens to sample").fill("3")
        page.get_by_role("button", name="Explain").click()
        page.wait_for_selector(".lesson section")
        trace = demo_model().trace(TEXT, max_tokens=3, seed=1)
        assert page.locator(".lesson .text").inner_text() == trace.text
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.guard.expected.append("status of 400")
        page.get_by_role("textbox", name="Text").fill("a b " * 60)
        page.get_by_role("button", name="Explain").click()
        page.locator(".status.error").wait_for()
        assert "expected at most 96" in page.locator(".status").inner_text()
