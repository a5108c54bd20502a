"""The files of the page: what a server says of them, and what is not in them. No browser is needed."""

import pathlib
import re

import pytest
from demo import demo_model
from serving import serving

from gpt2rt.explain import lesson
from gpt2rt.serve import page
from gpt2rt.serve.page import DEFAULTS, PAGES, POLICY, PREFIX, read_page_files

FOLDER = pathlib.Path(page.__file__).parent / "page"
SHARED = pathlib.Path(lesson.__file__).parent / "page"  # with the lesson of gpt2rt explain
SCRIPTS = sorted(FOLDER.glob("*.js"))
MAX_SIZE = 100_000  # bytes of a page and all that it loads


def place(name):
    """Return the path of a file of the page."""
    return next((path for path in (FOLDER / name, SHARED / name) if path.exists()), FOLDER / name)


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}, api_key="key") as server:
        yield server


@pytest.mark.parametrize("path", [*PAGES, *(f"{PREFIX}{name}" for name in read_page_files())])
def test_a_file_needs_no_key_and_has_strict_headers(server, path):
    answer = server.get(path)
    assert (answer.status, answer.headers["content-security-policy"]) == (200, POLICY)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    media_type = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    expected = media_type.get(PAGES.get(path, path).rpartition(".")[2], "application/json")
    assert answer.headers["content-type"].startswith(expected)
    assert server.get(path, {"if-none-match": f'"x", {answer.headers["etag"]}'}).status == 304


def test_the_policy_allows_nothing_inline_and_no_other_host():
    assert "unsafe" not in POLICY
    assert not re.search(r"https?:|\*", POLICY)
    assert "require-trusted-types-for 'script'" in POLICY


def test_the_api_does_need_the_key(server):
    for path in ("/v1/models", "/arena/board", "/page", "/pages/x"):
        assert server.get(path).status == 401


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "jsconfig.json", ""])
def test_no_other_file_can_be_had(server, name):
    assert server.get(f"{PREFIX}{name}").status in (401, 404)


def test_requests_for_files_are_counted_together():
    with serving({"demo": demo_model()}) as server:
        server.get("/notebook")
        server.get(f"{PREFIX}dom.js")
        text = server.get("/metrics").content.decode()
        assert 'requests_total{path="/notebook",status="200"} 1.0' in text
        assert f'requests_total{{path="{PREFIX}",status="200"}} 1.0' in text


def test_the_defaults_that_the_page_shows_are_those_of_the_server(server):
    defaults = server.get(f"{PREFIX}{DEFAULTS}").json
    assert {name: defaults["chat"][name] for name in ("temperature", "top_p", "top_k", "max_tokens")} == {
        **{"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 120}
    }
    assert (defaults["completions"]["temperature"], defaults["completions"]["max_tokens"]) == (0.8, 200)


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_is_small(name):
    waiting, loaded = [name], set()
    while waiting:
        path = place(waiting.pop())
        if path not in loaded and path.name != DEFAULTS:
            loaded.add(path)
            waiting += re.findall(r'(?:"\./|"page/)(\w+\.\w+)"', path.read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in loaded) <= MAX_SIZE


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_text_and_names_no_host(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert re.findall(r"https?://\S+", text) in ([], ['http://www.w3.org/2000/svg";'])
    assert len(text.splitlines()) <= 500


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_files_that_exist_and_uses_what_it_imports(path):
    text = path.read_text(encoding="utf-8")
    imports = re.findall(r'^import (?:\{([^}]*)\} from )?"\./(\w+\.js)";$', text, re.MULTILINE)
    assert len(imports) == len(re.findall(r"^import ", text, re.MULTILINE))
    for names, file in imports:
        exported = place(file).read_text(encoding="utf-8")
        for name in filter(None, (one.strip() for one in names.split(","))):
            assert re.search(rf"^export (async )?(function\*?|class|const) {name}\b", exported, re.MULTILINE)
            assert len(re.findall(rf"\b{name}\b", text)) > 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_a_page_has_relative_addresses_and_nothing_inline(path):
    text = path.read_text(encoding="utf-8")
    addresses = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert addresses
    assert not [one for one in addresses if one.startswith("/") or ":" in one]
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text)
