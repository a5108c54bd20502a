"""Files of a server, downloaded so that a run that was stopped can be resumed.

What has arrived of a file is in FILE.part, and FILE.part.etag has what the server called that version, so that two
versions are never joined. The standard library's urllib carries the requests, through the proxies that the environment
names.
"""

from __future__ import annotations

import base64
import contextlib
import email.message
import email.utils
import http.client
import os
import pathlib
import random
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from gpt2rt import __version__
from gpt2rt.errors import DownloadError
from gpt2rt.modelfile.unfinished import sync_file
from gpt2rt.regular_file import read_regular

Result = TypeVar("Result")

N_TRIES = 8  # of a request, one after the other
BACKOFF = 1.0  # seconds; doubled with each try after the second, plus up to as much again at random
MAX_WAIT = 120  # seconds between two tries, also where the server asks for more
TIMEOUT = 30  # seconds without a byte
ENOUGH = 1 << 20  # bytes that a try must have brought for the tries to be counted anew
PIECE = 1 << 18  # bytes that are read at most at a time
MAX_REDIRECTS = 5
MAX_VERSION = 1024  # characters
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others a little later
REDIRECTS = (301, 302, 303, 307, 308)
NO_HEAD = (405, 501)  # statuses of a server that does not report sizes beforehand
URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"  # that are not quoted

Response = http.client.HTTPResponse


class _TemporaryError(Exception):
    """A failure that may not occur the next time.

    Attributes:
        retry_after: seconds to wait before the next try, where the server says that; else None.
    """

    def __init__(self, problem: str, retry_after: float | None = None):
        super().__init__(problem)
        self.retry_after = retry_after


class Part:
    """What has arrived of a file.

    Attributes:
        path: of FILE.part.
        expected: the size of the whole file in bytes, or None.
        version: what the server called this version of the file, or None.
        reached: the largest number of bytes of the file that this run has had.
    """

    def __init__(self, path: pathlib.Path, expected: int | None):
        self.expected, self._whole = expected, path
        self.path = path.with_name(f"{path.name}.part")
        self._version_path = path.with_name(f"{path.name}.part.etag")
        self.version: str | None = None
        self.reached = 0
        with contextlib.suppress(OSError):
            version = read_regular(self._version_path, MAX_VERSION).decode("latin-1")
            if self.path.exists() and len(version) <= MAX_VERSION and version.isprintable():
                self.version = version

    @property
    def size(self) -> int:
        """Bytes that have arrived and can be continued: none if their version is not known."""
        return self.path.stat().st_size if self.version else 0

    def open(self, begin: int, version: str | None) -> BinaryIO:
        """Open the file to write from byte `begin` on."""
        if not begin:
            self.clear()  # before the new version is named: old bytes never get its name
            if version:
                self._version_path.write_text(version, "latin-1")
                self.version = version
        return open(self.path, "ab")

    def clear(self) -> None:
        """Delete everything that has arrived."""
        self.version = None
        for path in (self.path, self._version_path):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name, once it is safe on the disk."""
        sync_file(self.path)
        os.replace(self.path, self._whole)
        self._version_path.unlink(missing_ok=True)


class Mirror:
    """A server's folder of files. A request that fails for a temporary reason is repeated a bounded number of times."""

    def __init__(self, folder_url: str, n_tries: int, backoff: float, timeout: float):
        self._n_tries, self._backoff, self._timeout = n_tries, backoff, timeout
        parts = urllib.parse.urlsplit(folder_url)
        login, _, self._host = parts.netloc.rpartition("@")
        self._folder_url = parts._replace(netloc=self._host).geturl()  # no message shows a password
        encoded = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        self._login = {"Authorization": f"Basic {encoded}"} if login else {}
        # No handler of redirects or of errors: `_open` looks at every status itself.
        self._opener = urllib.request.OpenerDirector()
        for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
            self._opener.add_handler(handler)
        self._opener.addheaders = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opener.close()

    def url(self, name: str) -> str:
        return f"{self._folder_url}/{name}"

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if the server does not report them."""

        def ask() -> int | None:
            with self._open("HEAD", name) as response:
                if response.status in NO_HEAD:
                    return None
                if response.status != 200:
                    raise self._refusal(name, response)
                return _number(response.headers.get("Content-Length"))

        return self._tried(name, ask)

    def fetch(self, name: str, part: Part, advance: Callable[[int], None]) -> None:
        """Download what a part lacks.

        Args:
            advance: called with the number of bytes of the file that have arrived.
        """

        def ask() -> None:
            begin = part.size
            ranges = {"Range": f"bytes={begin}-", "If-Range": part.version} if begin and part.version else {}
            with self._open("GET", name, ranges) as response:
                if self._has_more(name, response, part, begin):
                    self._receive(name, response, part, begin if response.status == 206 else 0, advance)

        self._tried(name, ask, part)

    def _has_more(self, name: str, response: Response, part: Part, begin: int) -> bool:
        """Whether the response has the next bytes or the file from its start; not if the part is complete."""
        version, (first, total) = _version(response.headers), _content_range(response.headers)
        if response.status == 200:
            return True
        if not begin or response.status not in (206, 416):
            raise self._refusal(name, response)
        has_next = response.status == 206 and first == begin
        if version not in (None, part.version) or not (has_next or (response.status == 416 and total == begin)):
            part.clear()
            raise _TemporaryError("the server's file has changed, or the server sends another range than requested")
        return has_next

    def _receive(self, name: str, response: Response, part: Part, begin: int, advance: Callable[[int], None]) -> None:
        """Append the response's body to the part."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DownloadError(f"{self.url(name)}: got a body encoded as {encoding!r}, expected the file's own bytes")
        length = _number(response.headers.get("Content-Length"))
        expected = part.expected if length is None else begin + length
        done = begin
        with part.open(begin, _version(response.headers)) as file:
            while piece := self._read(response):
                done += len(piece)
                if expected is not None and done > expected:
                    part.clear()
                    raise DownloadError(f"{self.url(name)}: got more than {expected} bytes, expected no more")
                file.write(piece)
                part.reached = max(part.reached, done)
                advance(done)
        if expected is not None and done < expected:
            raise _TemporaryError("the connection was cut")

    def _read(self, response: Response) -> bytes:
        """Return the next bytes of the body, none at its end. Raises _TemporaryError."""
        try:
            return response.read1(PIECE)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _TemporaryError(self._reason(error)) from None

    @contextlib.contextmanager
    def _open(self, method: str, name: str, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        """Request a file and yield the response, its body not yet read, after following redirects.

        Raises:
            DownloadError: the address is no usable one. _TemporaryError: the next try may succeed.
        """
        url, n_redirects = self.url(name), 0
        headers = {
            "User-Agent": f"gpt2rt/{__version__}",
            "Accept-Encoding": "identity",  # lengths and ranges are those of the file
            **(headers or {}),
        }
        while True:
            is_ours = urllib.parse.urlsplit(url).netloc == self._host  # no other host gets the password
            response = self._response(method, name, url, {**headers, **(self._login if is_ours else {})})
            with response:
                if response.status in TEMPORARY:
                    raise _TemporaryError(_status(response), _retry_after(response.headers))
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or not location:
                    yield response
                    return
            n_redirects += 1
            if n_redirects > MAX_REDIRECTS:
                raise self._dead_end(name, f"more than {MAX_REDIRECTS} redirects")
            url = self._redirected(name, url, location)

    def _response(self, method: str, name: str, url: str, headers: dict[str, str]) -> Response:
        """Return the response to one request, whatever its status."""
        try:
            request = urllib.request.Request(urllib.parse.quote(url, URL_CHARACTERS), headers=headers, method=method)
            response: Response = self._opener.open(request, timeout=self._timeout)
        except (http.client.InvalidURL, UnicodeError) as error:
            raise self._dead_end(name, str(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = _cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{self.url(name)}: the server's certificate can't be verified: {cause.verify_message} (let the"
                    " variable SSL_CERT_FILE name a file of root certificates; for Python from python.org on macOS, run"
                    " its Install Certificates.command)"
                ) from None
            raise _TemporaryError(self._reason(error)) from None
        return response

    def _redirected(self, name: str, url: str, location: str) -> str:
        """Return the address that a redirect leads to: never from https to anything else."""
        try:
            target = urllib.parse.urljoin(url, location)
            scheme = urllib.parse.urlsplit(target).scheme
        except ValueError as error:
            raise self._dead_end(name, str(error)) from None
        if scheme != "https" and not (scheme == "http" and url.startswith("http://")):
            raise self._dead_end(name, f"got a redirect to {target!r:.200}, expected one to https://")
        return target

    def _dead_end(self, name: str, problem: str) -> DownloadError:
        return DownloadError(f"{self.url(name)}: the address can't be followed: {problem}")

    def _refusal(self, name: str, response: Response) -> DownloadError:
        return DownloadError(f"{self.url(name)}: {_status(response)}, expected the file (is the address right?)")

    def _reason(self, error: BaseException) -> str:
        """Return why a request failed, in words."""
        cause = _cause(error)
        if isinstance(cause, TimeoutError):
            return f"no answer for {self._timeout} s"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError) and str(cause):
            return str(cause)  # a proxy's refusal
        return "the connection was cut"

    def _tried(self, name: str, ask: Callable[[], Result], part: Part | None = None) -> Result:
        """Return what ask() returns, after as many tries as it takes and as are allowed."""
        n_failed = 0
        while True:
            begin = part.reached if part else 0
            try:
                return ask()
            except _TemporaryError as error:
                if part and part.reached - begin >= ENOUGH:
                    n_failed = 0
                n_failed += 1
                if n_failed >= self._n_tries:
                    raise DownloadError(
                        f"{self.url(name)}: {error}, at the last of {self._n_tries} tries (what has arrived is kept;"
                        " the same command resumes)"
                    ) from None
                time.sleep(self._wait(n_failed) if error.retry_after is None else error.retry_after)

    def _wait(self, n_failed: int) -> float:
        """Return the seconds to wait after so many failed tries."""
        if n_failed == 1:
            return 0.0
        return min(MAX_WAIT, self._backoff * (2.0 ** min(n_failed - 1, 10) + random.random()))


def _cause(error: BaseException) -> BaseException:
    """Return the error that urllib has wrapped, if it has."""
    wrapped = error.reason if isinstance(error, urllib.error.URLError) else None
    return wrapped if isinstance(wrapped, BaseException) else error


def _status(response: Response) -> str:
    return f"the server answers {response.status} {response.reason:.80}"


def _number(text: str | None) -> int | None:
    """Return the number of a header, None if it has none."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else None


def _retry_after(headers: email.message.Message) -> float | None:
    """Return the seconds after which the server wants the next try, None if it says nothing or too long a time."""
    text = headers.get("Retry-After", "")
    seconds: float | None = _number(text.strip())
    if seconds is None and (date := email.utils.parsedate_tz(text)):
        seconds = max(0.0, email.utils.mktime_tz(date) - time.time())
    return seconds if seconds and seconds <= MAX_WAIT else None


def _version(headers: email.message.Message) -> str | None:
    """Return what distinguishes this version of a file in If-Range: a strong ETag, else its date, else None."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _content_range(headers: email.message.Message) -> tuple[int | None, int | None]:
    """Return the first byte and the whole length of Content-Range, None for what it does not say."""
    match = re.fullmatch(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)", headers.get("Content-Range", ""))
    return (_number(match[1]), _number(match[2])) if match else (None, None)
