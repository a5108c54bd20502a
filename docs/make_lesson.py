"""Draw the pictures of the lesson in docs/how-gpt2-works.md, after each new model: python docs/make_lesson.py

They are screenshots by Chromium (playwright, the extra 'browser'); GPT2RT_CHROMIUM names another browser.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

FOLDER = pathlib.Path(__file__).parent
TEXT = "Once upon a time, a little dog named Max"
LESSON = ["explain", TEXT, "-n", "12", "--seed", "7", "--html"]
WIDTH, HEIGHT = 900, 1000


def main():
    program = os.path.join(os.path.dirname(sys.executable), "gpt2rt")
    path = os.environ.get("GPT2RT_CHROMIUM") or shutil.which("chromium")
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lesson = pathlib.Path(folder) / "lesson.html"
        subprocess.run([program, *LESSON, lesson], check=True)
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light").new_page()
        page.goto(lesson.as_uri())
        page.wait_for_selector("section")
        page.locator(".bars button").nth(1).click()  # a branch
        page.mouse.move(1, 1)
        page.evaluate("document.querySelectorAll('section')[1].scrollIntoView()")
        page.screenshot(path=FOLDER / "explain-next.png")
        page.evaluate("document.querySelectorAll('section')[2].scrollIntoView()")
        page.screenshot(path=FOLDER / "explain-layers.png")
        browser.close()


if __name__ == "__main__":
    main()
