"""The web page: its files, and the headers that keep it from loading or running anything else."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpt2rt.chat import MAX_TOKENS as MAX_CHAT_TOKENS
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams
from gpt2rt.serve.completions import MAX_TOKENS

PAGES = {"/": "index.html", "/notebook": "notebook.html", "/arena": "arena.html", "/explain": "explain.html"}
PREFIX = "/page/"  # of the paths of the other files
DEFAULTS = "defaults.json"
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "cache-control": "no-cache",  # that is, ask whether it has changed
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageFile:
    """A file of the page, in memory."""

    def __init__(self, content: bytes, media_type: str):
        self._content, self._media_type = content, media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def respond(self, request: Request) -> Response:
        """Return the file, or that the client's copy of it is current."""
        headers = {**HEADERS, "etag": self._tag}
        known = request.headers.get("if-none-match", "").split(",")
        if self._tag in [tag.strip().removeprefix("W/") for tag in known]:
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._media_type)


def read_page_files() -> dict[str, PageFile]:
    """Return the page's files by name, from the package."""
    folders = [files("gpt2rt.serve") / "page", files("gpt2rt.explain") / "page"]
    found = {DEFAULTS: PageFile(msgspec.json.encode(request_defaults()), "application/json")}
    for file in (file for folder in folders for file in folder.iterdir()):
        media_type = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            found[file.name] = PageFile(file.read_bytes(), media_type)
    return found


def request_defaults() -> dict[str, dict[str, object]]:
    """Return the defaults of the fields of requests, which the page shows, by kind of request."""
    chat, completions = SamplingParams(**CHAT_DEFAULTS), SamplingParams()
    return {
        "chat": {"max_tokens": MAX_CHAT_TOKENS, **{name: getattr(chat, name) for name in SAMPLING_OPTIONS}},
        "completions": {"max_tokens": MAX_TOKENS, **{name: getattr(completions, name) for name in SAMPLING_OPTIONS}},
    }


def page_routes() -> list[Route]:
    """Return the routes of the page and its files. They are read once; no request leads to another file."""
    found = read_page_files()

    async def show_file(request: Request) -> Response:
        file = found.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return await file.respond(request)

    return [
        *(Route(path, found[name].respond) for path, name in PAGES.items()),
        Route(f"{PREFIX}{{name}}", show_file),
    ]
