"""The page for conversations, in a real browser."""

import json
import pathlib
import re

import pytest
from browser import watched_page
from demo import demo_model
from page_server import application, serving_application
from page_steps import Requests, answers, ask, box, button, expect, open_chat, say, wait_for_answer

pytestmark = pytest.mark.slow

QUESTION = "Tell me a story about a lighthouse."
SEED = 6  # for which the answer is some 30 tokens long


class TestChat:
    def test_an_answer_streams_and_reports_its_numbers(self, slow_page):
        page = slow_page
        open_chat(page, seed=SEED)
        say(page, QUESTION)
        expect(page.locator("article.running .text")).to_have_text(re.compile(r"\w"))
        early = answers(page).inner_text()
        text = wait_for_answer(page)
        assert text.startswith(early)
        assert len(text) > len(early)
        expect(page.locator(".answered .meta")).to_contain_text(re.compile(rf"\d+ tokens · \d+ tokens/s\s*seed {SEED}"))
        expect(box(page)).to_be_focused()
        assert box(page).input_value() == ""

    @pytest.mark.parametrize("how", ["button", "escape"])
    def test_stop_keeps_what_there_is_and_the_next_message_can_be_sent(self, slow_page, how):
        page = slow_page
        open_chat(page, seed=SEED)
        requests = Requests(page, "/v1/chat/completions")
        say(page, QUESTION)
        expect(page.locator("article.running .text")).to_have_text(re.compile(r"\w+ \w+"))
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        text = wait_for_answer(page)
        assert text
        expect(page.locator(".answered .meta")).to_contain_text("stopped")
        expect(box(page)).to_be_focused()
        assert ask(page, "Hello!", 2)
        assert [message["content"] for message in requests.bodies[-1]["messages"]] == [QUESTION, text, "Hello!"]

    def test_stop_before_the_first_word(self, slow_page):
        page = slow_page
        open_chat(page)
        page.route("**/v1/chat/completions", lambda route: None)  # no answer at all
        say(page, QUESTION)
        page.keyboard.press("Escape")
        assert wait_for_answer(page) == ""
        page.unroute("**/v1/chat/completions")
        button(page, "Retry").click()
        expect(answers(page)).to_have_text(re.compile(r"\w"))
        wait_for_answer(page)
        expect(page.get_by_text("1 of 2")).to_have_count(0)

    def test_retry_gives_another_answer_and_keeps_the_first_one(self, page):
        open_chat(page, seed=SEED)
        requests = Requests(page, "/v1/chat/completions")
        first = ask(page, QUESTION)
        button(page, "Retry").click()
        expect(page.get_by_text("2 of 2")).to_be_visible()
        second = wait_for_answer(page)
        assert second != first
        assert [body["seed"] for body in requests.bodies] == [SEED, SEED + 1]
        button(page, "Previous answer").click()
        expect(answers(page)).to_have_text(first)
        ask(page, "Thanks!", 2)
        assert requests.bodies[-1]["messages"][1] == {"role": "assistant", "content": first}

    def test_the_seed_of_an_answer_repeats_it(self, page):
        open_chat(page)
        first = ask(page, QUESTION)
        page.get_by_role("button", name=re.compile(r"^seed \d+")).click()
        page.get_by_role("link", name="New conversation").click()
        expect(answers(page)).to_have_count(0)
        seed_box = page.get_by_label("Seed", exact=True)
        expect(seed_box).to_have_value("")  # it belongs to the other conversation
        page.go_back()
        expect(seed_box).to_have_value(re.compile(r"^\d+$"))
        seed = seed_box.input_value()
        page.get_by_role("link", name="New conversation").click()
        expect(seed_box).to_have_value("")
        seed_box.fill(seed)
        assert ask(page, QUESTION) == first

    def test_an_edited_message_continues_the_conversation_from_there(self, page):
        open_chat(page)
        requests = Requests(page, "/v1/chat/completions")
        first = ask(page, "Hello!")
        ask(page, "Who are you?", 2)
        ask(page, "Where are you?", 3)
        edited = page.get_by_role("article", name="You").nth(1)
        edited.hover()
        edited.get_by_role("button", name="Edit").click()
        edited.get_by_role("textbox").fill("What are you?")
        edited.get_by_role("button", name="Send again").click()
        wait_for_answer(page, 2)
        assert [one["content"] for one in requests.bodies[-1]["messages"]] == ["Hello!", first, "What are you?"]
        button(page, "Undo").click()
        expect(answers(page)).to_have_count(3)
        expect(page.get_by_role("log")).to_contain_text("Where are you?")

    def test_an_answer_that_was_cut_can_be_continued(self, page):
        open_chat(page, seed=SEED)
        requests = Requests(page, "/v1/chat/completions")
        page.get_by_label("Max tokens").fill("5")
        text = ask(page, QUESTION)
        expect(page.locator(".answered .meta")).to_contain_text("token limit reached")
        button(page, "Continue").click()
        expect(answers(page)).not_to_have_text(text)
        continued = wait_for_answer(page)
        body = requests.bodies[-1]
        assert (body["continue_final_message"], body["messages"][-1]) == (True, {"role": "assistant", "content": text})
        assert continued.startswith(text)

    def test_settings_are_sent_and_errors_are_shown_at_their_field(self, page):
        open_chat(page)
        requests = Requests(page, "/v1/chat/completions")
        assert page.get_by_label("Temperature").get_attribute("placeholder") == "0.7"
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Top p").fill("0,5")
        page.get_by_label("Opening").fill("A talk at night.")
        ask(page, "Hello!")
        body = requests.bodies[-1]
        assert (body["temperature"], body["top_p"], "top_k" in body) == (0, 0.5, False)
        assert body["messages"][0] == {"role": "system", "content": "A talk at night."}
        page.guard.expected.append("400")
        page.get_by_label("Temperature").fill("1000")
        ask(page, "Hello!", 2)
        expect(page.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_label("Temperature")).to_have_accessible_description(re.compile("temperature.*1000"))
        page.get_by_label("Temperature").fill("warm")
        button(page, "Retry").click()
        expect(page.locator(".answered .error").last).to_contain_text("temperature: got warm, expected a number")
        page.get_by_label("Temperature").fill("")
        button(page, "Retry").click()
        expect(page.locator(".answered .error").last).to_be_empty()
        wait_for_answer(page, 2)

    def test_a_conversation_that_is_too_long_can_lose_its_oldest_messages(self, page):
        open_chat(page)
        page.guard.expected.append("400")
        ask(page, "word " * 300)
        ask(page, "word " * 300, 2)
        expect(page.locator(".answered .error").last).to_contain_text("context")
        button(page, "Drop the oldest messages").click()
        expect(page.locator(".answered .error").last).to_be_empty()
        assert wait_for_answer(page, 2)

    def test_tokens_show_their_probabilities_to_the_pointer_and_to_the_keyboard(self, page):
        open_chat(page, seed=1)
        ask(page, "Hello!")
        panel = page.get_by_role("group", name="Probabilities", exact=True)
        expect(panel).to_be_hidden()
        page.locator(".token").nth(1).hover()
        expect(panel).to_contain_text(re.compile(r"[\d.]+%"))
        assert panel.get_by_role("listitem").count() >= 5
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        page.locator(".token").nth(2).hover()
        expect(panel).to_be_visible()
        page.mouse.move(1, 1)
        expect(panel).to_be_hidden()
        page.locator("article.answered .text").focus()
        page.keyboard.press("ArrowRight")
        expect(panel).to_contain_text("Hello")
        expect(page.locator(".token.current")).to_have_text("Hello")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".token.current")).not_to_have_text("Hello")
        expect(page.locator("[aria-live=polite]")).to_contain_text("instead")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()

    def test_the_tokens_of_an_answer_are_its_text(self, page):
        open_chat(page, seed=SEED)
        text = ask(page, QUESTION)
        assert "".join(page.locator(".answered .token").all_inner_texts()) == text

    def test_tint_is_off_until_it_is_chosen(self, page):
        open_chat(page, seed=SEED)
        ask(page, QUESTION)
        color = "element => getComputedStyle(element).backgroundColor"
        token = page.locator(".answered .token").nth(5)
        assert token.evaluate(color) == "rgba(0, 0, 0, 0)"
        page.get_by_label("Tint tokens by probability").check()
        assert "oklab" in token.evaluate(color)
        page.reload()
        expect(page.get_by_label("Tint tokens by probability")).to_be_checked()

    def test_several_conversations_survive_a_reload(self, page):
        open_chat(page)
        first = ask(page, "Hello!")
        page.get_by_role("link", name="New conversation").click()
        expect(page.get_by_role("heading", name="demo")).to_be_visible()
        second = ask(page, "What is a cat?\nTell me.")
        page.reload()
        expect(answers(page)).to_have_text(second)
        assert page.locator(".answered .token").count() > 0
        names = page.get_by_role("complementary", name="Conversations").get_by_role("listitem").get_by_role("link")
        assert names.all_inner_texts() == ["What is a cat?", "Hello!"]
        names.last.click()
        expect(answers(page)).to_have_text(first)

    def test_a_reload_in_the_middle_keeps_the_partial_answer(self, slow_page):
        page = slow_page
        open_chat(page, seed=SEED)
        say(page, QUESTION)
        expect(page.locator("article.running .text")).to_have_text(re.compile(r"\w+ \w+"))
        early = answers(page).inner_text()
        page.reload()
        assert wait_for_answer(page).startswith(early)
        expect(page.locator(".answered .meta")).to_contain_text("stopped")

    def test_a_deleted_conversation_can_be_had_again(self, page):
        open_chat(page)
        text = ask(page, "Hello!")
        page.get_by_role("button", name="Delete “Hello!”").click()
        expect(answers(page)).to_have_count(0)
        button(page, "Undo").click()
        expect(answers(page)).to_have_text(text)
        page.reload()
        expect(answers(page)).to_have_text(text)

    def test_a_conversation_is_exported(self, page):
        open_chat(page, seed=SEED)
        text = ask(page, "Hello!")
        with page.expect_download() as download:
            button(page, "JSON").click()
        assert download.value.suggested_filename == "Hello.json"
        content = json.loads(pathlib.Path(download.value.path()).read_text(encoding="utf-8"))
        said = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": text}]
        assert content["messages"] == said
        assert content["answers"][0]["seed"] == SEED
        with page.expect_download() as download:
            button(page, "Text").click()
        content = pathlib.Path(download.value.path()).read_text(encoding="utf-8")
        assert content == f"You: Hello!\n\ndemo: {text}\n"

    def test_text_is_never_markup_and_keeps_its_white_space(self, page):
        open_chat(page)
        art = "<b>x</b> <img src=x onerror=alert(1)>\n   /\\_/\\\n  ( o.o )\t!"
        box(page).fill(art)
        page.keyboard.press("Enter")
        said = page.get_by_role("article", name="You").locator(".text")
        assert said.inner_text() == art
        assert said.locator("*").count() == 0
        assert said.evaluate("element => getComputedStyle(element).whiteSpace").startswith(("pre-wrap", "break-spaces"))
        page.get_by_label("Letters").select_option("Monospaced")
        assert "mono" in said.evaluate("element => getComputedStyle(element).fontFamily")

    def test_shift_enter_breaks_the_line(self, page):
        open_chat(page)
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        assert box(page).input_value() == "one\ntwo"
        expect(answers(page)).to_have_count(0)

    def test_screen_readers_hear_sentences(self, slow_page):
        page = slow_page
        open_chat(page, seed=SEED)
        page.evaluate("""() => {
            window.heard = [];
            const note = (changes) => {
                for (const one of changes) for (const node of one.addedNodes) window.heard.push(node.textContent);
            };
            new MutationObserver(note).observe(document.querySelector("[aria-live=polite]"), {childList: true});
        }""")
        say(page, QUESTION)
        text = wait_for_answer(page)
        heard = page.evaluate("window.heard")
        assert "".join(heard).strip() == text.strip()
        assert len(heard) <= len(re.findall(r"[.!?…]", text)) + 1
        assert page.get_by_role("log").get_attribute("aria-live") == "off"

    def test_a_server_that_is_gone_is_reported(self, page):
        open_chat(page)
        page.guard.expected.append("Failed to load")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(page, "Hello!")
        expect(page.locator(".answered .error")).to_have_text("The server can't be reached.")

    def test_one_of_several_models_is_chosen(self, browser):
        models = {"first": demo_model(), "second": demo_model()}
        with serving_application(application(models)) as url, watched_page(browser, url) as page:
            page.goto("./")
            expect(page.get_by_role("heading", name="first")).to_be_visible()
            page.get_by_label("Model").select_option("second")
            expect(page.get_by_role("heading", name="second")).to_be_visible()
            requests = Requests(page, "/v1/chat/completions")
            ask(page, "Hello!")
            assert requests.bodies[0]["model"] == "second"
            expect(page.get_by_role("article", name="second")).to_be_visible()
            page.reload()
            expect(page.get_by_label("Model")).to_have_value("second")

    def test_a_conversation_without_storage(self, browser, page_url):
        with watched_page(browser, page_url) as page:
            page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
            open_chat(page)
            assert ask(page, "Hello!")
            expect(page.get_by_text("a reload will lose it")).to_be_visible()


class TestKeys:
    def test_a_key_is_asked_for_and_kept_for_the_tab(self, browser):
        with (
            serving_application(application({"demo": demo_model()}, api_key="öpen")) as url,
            watched_page(browser, url) as page,
        ):
            page.guard.expected.append("401")
            page.goto("./")
            dialog = page.get_by_role("dialog", name="API key")
            dialog.get_by_label("Key", exact=True).fill("wrong")
            page.keyboard.press("Enter")
            expect(dialog).to_contain_text("does not accept")
            dialog.get_by_label("Key", exact=True).fill("öpen")
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", name="demo")).to_be_visible()
            assert ask(page, "Hello!")
            page.reload()
            expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.7")
            assert not page.evaluate("Object.values(localStorage).some((value) => value.includes('öpen'))")

    def test_without_a_key_the_refusal_is_shown(self, browser):
        with (
            serving_application(application({"demo": demo_model()}, api_key="k")) as url,
            watched_page(browser, url) as page,
        ):
            page.guard.expected.append("401")
            page.goto("./")
            page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
            expect(page.locator("#start")).to_contain_text("valid key")
