"""The page for blind comparisons, in a real browser; the server's side has fixed texts."""

import pytest
from arena_routes import ANSWERS, CONTESTANTS
from browser import watched_page
from page_steps import begin, box, button, expect, say, votes

pytestmark = pytest.mark.slow


class TestArena:
    def test_a_battle_with_vote_reveal_and_undo(self, browser, arena, arena_url):
        with watched_page(browser, arena_url) as page:
            page.goto(arena_url)
            page.get_by_role("radio", name="facts").check()
            page.get_by_role("button", name="What do bees make?").click()
            expect(box(page)).to_have_value("What do bees make?")
            page.keyboard.press("Enter")
            expect(votes(page)).to_be_visible()
            assert page.locator(".side.a .text").inner_text().strip() == ANSWERS["a"]
            assert page.locator(".side.b .text").inner_text().strip() == ANSWERS["b"]
            content = page.content()
            assert not [
                one for side in CONTESTANTS.values() for one in (side["name"], *side["details"]) if one in content
            ]
            button(page, "A is better").click()
            expect(page.get_by_text("You preferred A, demo · int8, to B, ELIZA.").first).to_be_visible()
            expect(page.locator(".side.b")).to_contain_text("DOCTOR, 1966")
            expect(votes(page)).to_be_hidden()
            button(page, "Undo vote").click()
            expect(votes(page)).to_be_focused()
            page.keyboard.press("t")
            expect(page.locator(".end")).to_contain_text("tie")
            button(page, "Next round").click()
            expect(page.get_by_role("heading", name="Which answer is better?")).to_be_visible()
            assert arena.requests == [
                ("rounds", {"category": "facts"}),
                ("rounds/round-1/messages", {"content": "What do bees make?"}),
                ("rounds/round-1/vote", {"outcome": "a"}),
                ("rounds/round-1/undo", {}),
                ("rounds/round-1/vote", {"outcome": "tie"}),
            ]

    @pytest.mark.parametrize(
        ("key", "outcome"),
        [*zip("1234", ("a", "b", "tie", "bad"), strict=True), *zip("abtx", ("a", "b", "tie", "bad"), strict=True)],
    )
    def test_keys_vote(self, browser, arena, arena_url, key, outcome):
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            expect(votes(page)).to_be_focused()
            page.keyboard.press(key)
            expect(button(page, "Next round")).to_be_focused()
            assert arena.requests[-1] == ("rounds/round-1/vote", {"outcome": outcome})

    def test_the_votes_weigh_the_same(self, browser, arena_url):
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            style = """buttons => buttons.map((one) => {
                const {width, height} = one.getBoundingClientRect();
                const {color, backgroundColor, borderColor, fontWeight, outlineStyle} = getComputedStyle(one);
                return JSON.stringify([width, height, color, backgroundColor, borderColor, fontWeight, outlineStyle]);
            })"""
            expect(votes(page)).to_be_visible()
            assert len(set(votes(page).get_by_role("button").evaluate_all(style))) == 1

    def test_keys_do_not_vote_while_a_message_is_written(self, browser, arena, arena_url):
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            expect(votes(page)).to_be_visible()
            box(page).focus()
            page.keyboard.type("a tab 1234x")
            assert box(page).input_value() == "a tab 1234x"
            page.keyboard.press("Enter")
            expect(page.get_by_role("article", name="Turn")).to_have_count(2)
            expect(votes(page)).to_be_visible()
            page.keyboard.press("x")
            expect(button(page, "Next round")).to_be_visible()
            assert [path for path, _ in arena.requests] == [
                *("rounds", "rounds/round-1/messages", "rounds/round-1/messages", "rounds/round-1/vote")
            ]

    @pytest.mark.parametrize(
        ("script", "sentence"), [("void", "did not answer in time"), ("cut", "connection was lost")]
    )
    def test_a_round_that_does_not_count(self, browser, arena, arena_url, script, sentence):
        arena.script.append(script)
        with watched_page(browser, arena_url) as page:
            page.guard.expected.append("INCOMPLETE")
            begin(page, arena_url)
            expect(page.locator(".end .error")).to_contain_text(sentence)
            expect(votes(page)).to_be_hidden()
            button(page, "Next round").click()
            say(page, "Again")
            expect(votes(page)).to_be_visible()
            assert [path for path, _ in arena.requests if path == "rounds"] == ["rounds", "rounds"]

    def test_a_stopped_round_does_not_count(self, browser, arena, arena_url):
        arena.script.append("slow")
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            expect(page.locator(".side.a .text")).to_contain_text("very")
            page.keyboard.press("Escape")
            expect(page.locator(".end .error")).to_contain_text("You stopped")
            expect(votes(page)).to_be_hidden()

    def test_identical_answers_are_called_so(self, browser, arena, arena_url):
        arena.script.append("identical")
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            expect(page.get_by_text("Both gave the same answer.")).to_be_visible()

    def test_a_vote_that_fails_can_be_given_again(self, browser, arena, arena_url):
        with watched_page(browser, arena_url) as page:
            page.guard.expected.append("500")
            begin(page, arena_url)
            expect(votes(page)).to_be_focused()
            arena.script.append("full")
            page.keyboard.press("2")
            expect(page.locator(".end .error")).to_contain_text("the disk is full")
            assert not any(side["name"] in page.content() for side in CONTESTANTS.values())
            expect(votes(page).get_by_role("button").first).to_be_enabled()
            votes(page).get_by_role("button").nth(1).click()
            expect(page.locator(".end")).to_contain_text("You preferred B")

    def test_a_message_after_the_vote_begins_the_next_round(self, browser, arena, arena_url):
        with watched_page(browser, arena_url) as page:
            begin(page, arena_url)
            expect(votes(page)).to_be_focused()
            page.keyboard.press("1")
            expect(button(page, "Undo vote")).to_be_visible()
            say(page, "Another")
            expect(page.get_by_role("article", name="Turn")).to_have_count(1)
            expect(page.get_by_role("article", name="Turn")).to_contain_text("Another")
            expect(button(page, "Undo vote")).to_have_count(0)
            expect(votes(page)).to_be_visible()

    def test_the_board(self, browser, arena_url):
        with watched_page(browser, arena_url) as page:
            page.goto(f"{arena_url}#board")
            ratings = page.get_by_role("table", name="Ratings")
            expect(ratings.get_by_role("row")).to_have_count(5)
            expect(ratings.get_by_role("row").nth(1)).to_contain_text("1,062")
            expect(ratings.get_by_role("img", name="1,021 to 1,104")).to_be_visible()
            expect(ratings).to_contain_text("provisional")
            expect(ratings).not_to_contain_text("old demo")
            matrix = page.get_by_role("region", name="Matrix of wins")
            expect(matrix).to_contain_text("32 : 11")
            expect(matrix).to_contain_text("11 : 32")
            expect(page.get_by_text("No pair is decided yet")).to_be_visible()
            page.get_by_label("Show 1 retired contestant").check()
            expect(ratings).to_contain_text("old demo")
            expect(page.get_by_label("Show 1 retired contestant")).to_be_focused()

    def test_a_server_without_an_arena_is_reported(self, page):
        page.guard.expected.append("404")
        page.goto("arena")
        if page.request.get("arena/suggestions").status == 404:
            expect(page.locator("#battle")).to_contain_text("This server has no arena.")
