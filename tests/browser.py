"""Debian's Chromium, driven by playwright, for tests of the page. Nothing is downloaded."""

import contextlib
import os
import shutil
from urllib.parse import urljoin

import pytest

FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE = 20_000  # ms
# Told as errors on the console, which the tests read.
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


@contextlib.contextmanager
def chromium():
    """Start the browser, or skip the test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra 'browser')")
    path = os.environ.get("GPT2RT_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("Chromium is not installed")
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Guard:
    """Watches pages: what they say on the console, and where their requests go.

    Attributes:
        complaints: errors, and requests to other places.
        expected: parts of complaints that the test causes on purpose.
    """

    def __init__(self, url):
        self._origin = urljoin(url, "/")
        self.complaints, self.expected = [], []

    def watch(self, page):
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))
        page.on("request", self._on_request)

    def _on_console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _on_request(self, request):
        if not request.url.startswith((self._origin, "blob:", "data:")):
            self.complaints.append(f"request to {request.url}")

    def check(self):
        unexpected = [one for one in self.complaints if not any(part in one for part in self.expected)]
        assert not unexpected, "\n".join(unexpected)


@contextlib.contextmanager
def watched_page(browser, url, **options):
    """Yield a new page with a `guard`, whose complaints are checked at the end.

    Args:
        options: of the browser's context, such as `viewport` and `color_scheme`.
    """
    context = browser.new_context(base_url=url, **options)
    context.set_default_timeout(PATIENCE)
    context.add_init_script(REPORT_VIOLATIONS)
    page = context.new_page()
    page.guard = Guard(url)
    page.guard.watch(page)
    try:
        yield page
        page.guard.check()
    finally:
        context.close()
