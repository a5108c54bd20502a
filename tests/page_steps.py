"""What a person does on the page, for its tests."""

import re

PATIENCE = 20_000  # ms
BEGINNING = "A: I have a dog.\nB: What is its name?\nA: Its name is"


def expect(thing):
    from playwright.sync_api import expect

    expect.set_options(PATIENCE)
    return expect(thing)


# --- chat


def open_chat(page, *, seed=None):
    page.goto("./")
    expect(page.get_by_role("heading", name="demo")).to_be_visible()
    if seed is not None:
        page.get_by_label("Seed", exact=True).fill(str(seed))
        box(page).focus()


def box(page):
    return page.get_by_role("textbox", name=re.compile("^Message"))


def say(page, text):
    box(page).fill(text)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator("article.answered .text")


def wait_for_answer(page, number=1):
    """Wait until an answer is complete; return its text."""
    expect(page.locator("article.answered:not(.running)")).to_have_count(number)
    return answers(page).last.inner_text()


def ask(page, text, number=1):
    say(page, text)
    return wait_for_answer(page, number)


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


class Requests:
    """The bodies of a page's requests to a path."""

    def __init__(self, page, path):
        self.bodies = []
        page.on("request", lambda request: request.url.endswith(path) and self.bodies.append(request.post_data_json))


# --- notebook


def open_notebook(page, **settings):
    page.goto("notebook")
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.8")
    for label, value in settings.items():
        page.get_by_label(label.replace("_", " ").capitalize(), exact=True).fill(str(value))
    page.get_by_role("textbox", name="Text", exact=True).focus()


def sheet(page):
    return page.get_by_role("textbox", name="Text", exact=True)


def generated(page):
    return "".join(page.locator(".marks .token").all_inner_texts())


def wait_for_text(page):
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(sheet(page)).to_be_editable()
    return sheet(page).input_value()


# --- arena


def begin(page, url, text="Hello!"):
    page.goto(url)
    expect(page.get_by_role("radio", name="anything")).to_be_checked()
    say(page, text)


def votes(page):
    return page.get_by_role("group", name=re.compile("Which answer is better"))
