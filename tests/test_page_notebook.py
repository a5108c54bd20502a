"""The page for one text that the model continues, in a real browser."""

import re

import pytest
from page_steps import BEGINNING, Requests, button, expect, generated, open_notebook, sheet, wait_for_text

pytestmark = pytest.mark.slow


class TestNotebook:
    def test_a_text_is_continued_and_what_is_new_is_marked(self, page):
        open_notebook(page, seed=3, max_tokens=12)
        requests = Requests(page, "/v1/completions")
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".status")).to_contain_text(re.compile(r"\d+ tokens · \d+ tokens/s · seed 3"))
        text = wait_for_text(page)
        assert (requests.bodies[0]["prompt"], requests.bodies[0]["max_tokens"]) == (BEGINNING, 12)
        assert text == BEGINNING + generated(page)
        expect(sheet(page)).to_be_focused()
        page.reload()
        assert sheet(page).input_value() == text
        assert text == BEGINNING + generated(page)

    def test_the_marks_are_where_the_text_is(self, page):
        open_notebook(page, seed=3, max_tokens=60)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        wait_for_text(page)
        size = "element => [element.clientWidth, element.scrollHeight]"
        assert sheet(page).evaluate(size) == page.locator(".marks").evaluate(size)
        names = ["font", "padding", "lineHeight", "whiteSpace", "overflowWrap", "tabSize"]
        style = "(element, names) => names.map((name) => getComputedStyle(element)[name])"
        assert sheet(page).evaluate(style, names) == page.locator(".marks").evaluate(style, names)

    def test_what_is_edited_loses_its_mark_and_the_rest_moves_along(self, page):
        open_notebook(page, seed=3, max_tokens=12)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        wait_for_text(page)
        tokens = page.locator(".marks .token").all_inner_texts()
        i = next(i for i, token in enumerate(tokens) if len(token) > 2)
        place = len(BEGINNING) + len("".join(tokens[:i])) + 1
        sheet(page).evaluate("(box, place) => box.setSelectionRange(place, place)", place)
        page.keyboard.type("xyz")
        assert page.locator(".marks .token").all_inner_texts() == [*tokens[:i], *tokens[i + 1 :]]
        sheet(page).evaluate("box => box.setSelectionRange(0, 0)")
        page.keyboard.type("> ")
        assert page.locator(".marks .token").all_inner_texts() == [*tokens[:i], *tokens[i + 1 :]]

    def test_stop_keeps_what_there_is(self, slow_page):
        page = slow_page
        open_notebook(page, seed=3)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".marks .token").nth(3)).to_be_visible()
        page.keyboard.press("Escape")
        text = wait_for_text(page)
        assert text == BEGINNING + generated(page) != BEGINNING
        expect(page.locator(".status")).to_contain_text("stopped")

    def test_continuations_are_undone_redone_and_retried(self, page):
        open_notebook(page, seed=3, max_tokens=8)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        first = wait_for_text(page)
        page.keyboard.press("Control+Enter")
        expect(sheet(page)).not_to_have_value(first)
        second = wait_for_text(page)
        button(page, "Undo").click()
        assert sheet(page).input_value() == first
        button(page, "Undo").click()
        assert sheet(page).input_value() == BEGINNING
        expect(button(page, "Undo")).to_be_disabled()
        button(page, "Redo").click()
        button(page, "Redo").click()
        assert sheet(page).input_value() == second
        button(page, "Undo").click()
        page.keyboard.press("Control+Enter")
        wait_for_text(page)
        requests = Requests(page, "/v1/completions")
        button(page, "Retry").click()
        retried = wait_for_text(page)
        assert (requests.bodies[0]["seed"], requests.bodies[0]["prompt"]) == (4, first)
        assert retried.startswith(first)
        assert retried != second

    def test_another_token_is_a_branch(self, page):
        open_notebook(page, seed=3, max_tokens=12)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        first = wait_for_text(page)
        tokens = page.locator(".marks .token").all_inner_texts()
        place = page.locator(".marks .token").nth(2).bounding_box()
        page.mouse.move(place["x"] + 2, place["y"] + place["height"] / 2)
        panel = page.get_by_role("group", name="Probabilities", exact=True)
        choice = panel.get_by_role("button").first
        other = choice.locator("code").inner_text().replace("␣", " ").replace("↵", "\n")
        choice.click()
        expect(sheet(page)).not_to_have_value(first)
        branch = wait_for_text(page)
        assert branch.startswith(BEGINNING + "".join(tokens[:2]) + other)
        assert branch == BEGINNING + generated(page)
        button(page, "Retry").click()
        expect(sheet(page)).not_to_have_value(branch)
        retried = wait_for_text(page)
        assert retried.startswith(BEGINNING + "".join(tokens[:2]) + other)
        button(page, "Undo").click()
        assert sheet(page).input_value() == branch
        button(page, "Undo").click()
        assert sheet(page).input_value() == first

    def test_a_refused_retry_changes_nothing(self, page):
        open_notebook(page, seed=3, max_tokens=8)
        page.guard.expected.append("400")
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        text = wait_for_text(page)
        page.get_by_label("Temperature").fill("-1")
        button(page, "Retry").click()
        expect(page.locator(".status .error")).to_contain_text("temperature")
        assert wait_for_text(page) == text
        assert text == BEGINNING + generated(page)

    def test_the_keyboard_branches_too(self, page):
        open_notebook(page, seed=3, max_tokens=12)
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        first = wait_for_text(page)
        page.keyboard.press("Alt+ArrowDown")
        panel = page.get_by_role("group", name="Probabilities", exact=True)
        expect(panel.get_by_role("button").first).to_be_focused()
        page.keyboard.press("Escape")
        expect(sheet(page)).to_be_focused()
        page.keyboard.press("Alt+ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(panel.get_by_role("button").nth(1)).to_be_focused()
        page.keyboard.press("Enter")
        expect(sheet(page)).not_to_have_value(first)
        wait_for_text(page)

    def test_text_after_the_cursor_stays(self, page):
        open_notebook(page, seed=3, max_tokens=6)
        requests = Requests(page, "/v1/completions")
        sheet(page).fill(BEGINNING + " END")
        sheet(page).evaluate("(box, place) => box.setSelectionRange(place, place)", len(BEGINNING))
        button(page, "At cursor").click()
        expect(page.locator(".status")).to_contain_text("tokens")
        text = wait_for_text(page)
        assert requests.bodies[0]["prompt"] == BEGINNING
        assert text == BEGINNING + generated(page) + " END"

    def test_stop_strings_end_the_text(self, page):
        open_notebook(page, seed=3)
        requests = Requests(page, "/v1/completions")
        page.get_by_label("Stop strings").fill("\\n\nthe end")
        sheet(page).fill(BEGINNING)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".status")).to_contain_text("the text has ended")
        assert requests.bodies[0]["stop"] == ["\n", "the end"]
        text = wait_for_text(page)
        assert text == BEGINNING + generated(page)
        assert "\n" not in generated(page)

    def test_an_empty_sheet_begins_a_text(self, page):
        open_notebook(page, seed=3, max_tokens=5)
        page.keyboard.press("Control+Enter")
        expect(sheet(page)).not_to_have_value("")

    def test_a_text_that_is_too_long_is_refused_with_a_sentence(self, page):
        open_notebook(page)
        page.guard.expected.append("400")
        sheet(page).fill("word " * 600)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".status")).to_contain_text("context has 512")
        expect(button(page, "Undo")).to_be_disabled()

    def test_characters_of_several_tokens(self, page):
        open_notebook(page, temperature=0, max_tokens=8)
        sheet(page).fill("日本語 日本語 日本語 日")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".status")).to_contain_text("tokens")
        text = wait_for_text(page)
        assert text.endswith(generated(page))
