"""All pages in a real browser: by keyboard, on a phone, below a path, for assistive technology."""

import os
import pathlib
import re

import pytest
from browser import watched_page
from demo import demo_model
from page_server import application, below_path, serving_application
from page_steps import (
    BEGINNING,
    ask,
    begin,
    box,
    button,
    expect,
    open_chat,
    open_notebook,
    sheet,
    votes,
    wait_for_answer,
    wait_for_text,
)

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


class TestKeyboardOnly:
    def test_a_chat(self, page):
        open_chat(page)
        page.keyboard.type("Hello!")
        page.keyboard.press("Enter")
        wait_for_answer(page)
        page.keyboard.press("Shift+Tab")
        expect(button(page, "Copy").last).to_be_focused()
        page.keyboard.press("Shift+Tab")
        expect(button(page, "Retry")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_text("2 of 2")).to_be_visible()
        wait_for_answer(page)
        button(page, "Settings").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("complementary", name="Settings")).to_be_hidden()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Model")).to_be_focused()
        page.keyboard.press("Escape")
        expect(button(page, "Settings")).to_be_focused()

    def test_a_battle(self, browser, arena_url):
        with watched_page(browser, arena_url) as page:
            page.goto(arena_url)
            expect(page.get_by_role("radio", name="anything")).to_be_checked()
            expect(box(page)).to_be_focused()
            page.keyboard.press("Shift+Tab")
            page.keyboard.press("Enter")
            expect(box(page)).to_be_focused()
            page.keyboard.press("Enter")
            expect(votes(page)).to_be_focused()
            page.keyboard.press("Tab")
            expect(votes(page).get_by_role("button").first).to_be_focused()
            page.keyboard.press("Enter")
            expect(button(page, "Next round")).to_be_focused()
            page.keyboard.press("Enter")
            expect(box(page)).to_be_focused()


class TestPhone:
    @pytest.fixture
    def phone(self, browser, page_url):
        with watched_page(browser, page_url, **PHONE) as page:
            yield page

    def is_too_wide(self, page):
        return page.evaluate("document.documentElement.scrollWidth > innerWidth")

    def test_a_chat(self, phone):
        open_chat(phone)
        box(phone).tap()
        phone.keyboard.type("Hello!")
        phone.keyboard.press("Enter")
        phone.keyboard.type(f"{'x' * 90} Hello")
        assert "\n" in box(phone).input_value()
        button(phone, "Send").tap()
        wait_for_answer(phone)
        assert not self.is_too_wide(phone)
        phone.locator(".token").nth(1).tap()
        expect(phone.get_by_role("group", name="Probabilities", exact=True)).to_be_visible()
        assert not self.is_too_wide(phone)
        for name in ("Conversations", "Settings"):
            button(phone, name).tap()
            expect(phone.get_by_role("complementary", name=name)).to_be_in_viewport()
            assert not self.is_too_wide(phone)
            button(phone, name).tap()
            expect(phone.get_by_role("complementary", name=name)).to_be_hidden()

    def test_a_notebook(self, phone):
        phone.goto("notebook")
        sheet(phone).fill(BEGINNING)
        phone.get_by_role("button", name="Generate").tap()
        expect(phone.locator(".status")).to_contain_text("tokens")
        wait_for_text(phone)
        assert not self.is_too_wide(phone)

    def test_a_battle_and_the_board(self, browser, arena_url):
        with watched_page(browser, arena_url, **PHONE) as page:
            page.goto(arena_url)
            page.get_by_role("button", name="My dog is ill").tap()
            button(page, "Send").tap()
            expect(votes(page)).to_be_visible()
            a, b = (page.locator(f".side.{side}").bounding_box() for side in "ab")
            assert a["y"] + a["height"] <= b["y"]
            assert not self.is_too_wide(page)
            page.get_by_role("link", name="Board", exact=True).tap()
            expect(page.get_by_role("table", name="Ratings")).to_be_visible()
            expect(page.locator(".pairs")).to_contain_text("32 : 11")
            assert not self.is_too_wide(page)


@pytest.mark.parametrize("path", ["./", "notebook", "arena", "explain"])
def test_below_a_path_of_a_reverse_proxy(browser, path):
    inner = application({"demo": demo_model()}, api_key=None)
    with serving_application(below_path(inner, "/some/gpt")) as url, watched_page(browser, url) as page:
        base = f"{url}some/gpt/"
        if path == "arena":
            page.guard.expected.append("404")
        page.goto(base + path.removeprefix("./"))
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(4)
        if path == "./":
            expect(page.get_by_role("heading", name="demo")).to_be_visible()
            assert ask(page, "Hello!")
        elif path == "notebook":
            page.keyboard.type("Once upon a")
            page.keyboard.press("Control+Enter")
            expect(page.locator(".status")).to_contain_text("tokens")
            wait_for_text(page)
        elif path == "explain":
            button(page, "Explain").click()
            expect(page.get_by_role("heading", name="Layer by layer")).to_be_visible()
        page.get_by_role("link", name="Notebook").click()
        expect(page).to_have_url(f"{base}notebook")
        page.get_by_role("link", name="Chat").click()
        expect(page).to_have_url(re.compile(re.escape(base)))


def test_the_files_need_no_key_below_a_path():
    from starlette.testclient import TestClient

    client = TestClient(
        below_path(application({"demo": demo_model()}, api_key="k"), "/gpt"), base_url="http://localhost"
    )
    assert [client.get(path).status_code for path in ("/gpt/", "/gpt/page/chat.js", "/gpt/v1/models")] == [
        200,
        200,
        401,
    ]


@pytest.fixture(scope="module")
def axe():
    """The text of axe-core."""
    path = os.environ.get("GPT2RT_AXE")
    if not path or not os.path.exists(path):
        pytest.skip("GPT2RT_AXE does not name axe-core's axe.min.js")
    return pathlib.Path(path).read_text(encoding="utf-8")


class TestAccessibility:
    """axe-core finds nothing. GPT2RT_AXE is the path of its axe.min.js (npm install axe-core)."""

    def check(self, page, axe):
        page.mouse.move(1, 1)
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        told = [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {node['failureSummary']}"
            for one in found
            for node in one["nodes"]
        ]
        assert not told, "\n".join(told)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [320, 1280])
    def test_chat(self, browser, page_url, axe, scheme, width):
        with watched_page(browser, page_url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            page.goto("./")
            expect(page.locator("#start h2")).to_be_visible()
            self.check(page, axe)
            ask(page, "Hello!")
            button(page, "Retry").click()
            expect(page.get_by_text("2 of 2")).to_be_visible()
            wait_for_answer(page)
            self.check(page, axe)
            page.locator(".answered .text").focus()
            page.keyboard.press("ArrowRight")
            self.check(page, axe)
            page.keyboard.press("Escape")
            for name in ("Conversations", "Settings"):
                if button(page, name).get_attribute("aria-expanded") == "false":
                    button(page, name).click()
                self.check(page, axe)
                if width == 320:
                    button(page, name).click()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_notebook(self, browser, page_url, axe, scheme):
        with watched_page(browser, page_url, color_scheme=scheme) as page:
            open_notebook(page, seed=3, max_tokens=12)
            self.check(page, axe)
            sheet(page).fill(BEGINNING)
            page.keyboard.press("Control+Enter")
            expect(page.locator(".status")).to_contain_text("tokens")
            wait_for_text(page)
            page.keyboard.press("Alt+ArrowDown")
            self.check(page, axe)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [320, 1280])
    def test_arena(self, browser, arena_url, axe, scheme, width):
        with watched_page(browser, arena_url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            begin(page, arena_url)
            expect(votes(page)).to_be_focused()
            self.check(page, axe)
            page.keyboard.press("1")
            expect(button(page, "Next round")).to_be_visible()
            self.check(page, axe)
            page.get_by_role("link", name="Board", exact=True).click()
            expect(page.get_by_role("table", name="Ratings")).to_be_visible()
            self.check(page, axe)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [320, 1280])
    def test_explain(self, browser, page_url, axe, scheme, width):
        with watched_page(browser, page_url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            page.goto("explain")
            self.check(page, axe)
            button(page, "Explain").click()
            expect(page.get_by_role("heading", name="Layer by layer")).to_be_visible()
            self.check(page, axe)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_start_of_a_battle_and_the_dialog_for_the_key(self, browser, arena_url, axe, scheme):
        with watched_page(browser, arena_url, color_scheme=scheme) as page:
            page.goto(arena_url)
            expect(page.get_by_role("radio", name="anything")).to_be_checked()
            self.check(page, axe)
        locked = application({"demo": demo_model()}, api_key="k")
        with serving_application(locked) as url, watched_page(browser, url, color_scheme=scheme) as page:
            page.guard.expected.append("401")
            page.goto("./")
            expect(page.get_by_role("dialog")).to_be_visible()
            self.check(page, axe)
