"""Files of a server, fetched so that a run that was stopped goes on where it was.

Requests carries them, with urllib3's `Retry` for the waits. What has come of a file lies in FILE.part, and in
FILE.part.etag what the server called that version, so that two versions are never joined.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar

from gpt2rt import __version__
from gpt2rt.errors import DownloadError

if TYPE_CHECKING:
    import requests
    import urllib3

Result = TypeVar("Result")

N_TRIES = 8  # of a request, one after the other
BACKOFF = 1.0  # seconds; doubled with each try after the second, and up to as much again by chance
MAX_WAIT = 120  # seconds between two tries, also where the server asks for more
TIMEOUT = 30  # seconds without a byte
ENOUGH = 1 << 20  # bytes that a try must have brought for the tries to be counted anew
PIECE = 1 << 18  # bytes that are read at most at a time
MAX_REDIRECTS = 5
MAX_VERSION = 1024  # characters
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a little later
NO_HEAD = (405, 501)  # answers of a server that does not tell sizes beforehand


class _PassingError(Exception):
    """Something that may go better the next time; answer is the server's, where it gave one."""

    def __init__(self, problem: str, answer: urllib3.BaseHTTPResponse | None = None):
        super().__init__(problem)
        self.answer = answer


class Part:
    """What has come of a file.

    Attributes:
        path: of FILE.part. expected: the size of the whole, bytes, or None. version: what the server called this
        version of the file, text or None. reached: bytes that this run has come to at the most.
    """

    def __init__(self, path: pathlib.Path, expected: int | None):
        self.expected, self._whole = expected, path
        self.path = path.with_name(f"{path.name}.part")
        self._version_path = path.with_name(f"{path.name}.part.etag")
        self.version: str | None = None
        self.reached = 0
        with contextlib.suppress(FileNotFoundError):
            version = self._version_path.read_text("latin-1")
            if self.path.exists() and len(version) <= MAX_VERSION and version.isprintable():
                self.version = version

    @property
    def size(self) -> int:
        """Bytes that are there and can be gone on from: none where their version is not known."""
        return self.path.stat().st_size if self.version else 0

    def open(self, begin: int, version: str | None) -> BinaryIO:
        """The file, to be written from byte `begin` on."""
        if not begin:
            self.clear()  # before the new version is named: old bytes never get its name
            if version:
                self._version_path.write_text(version, "latin-1")
                self.version = version
        return open(self.path, "ab")

    def clear(self) -> None:
        """Forgets everything."""
        self.version = None
        for path in (self.path, self._version_path):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Gives the file its name, once it is safe on the disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self._whole)
        self._version_path.unlink(missing_ok=True)


class Mirror:
    """A server's folder of files: asks again, a bounded number of times, whatever may go better the next time."""

    def __init__(self, folder_url: str, n_tries: int, backoff: float, timeout: float):
        try:
            import requests  # need not be installed
            import urllib3
        except ImportError:
            raise DownloadError(
                'gpt2rt download: the package requests is missing (pip install "gpt2rt[download]")'
            ) from None
        self._folder_url, self._n_tries, self._timeout = folder_url, n_tries, timeout
        self._retries = urllib3.Retry(
            total=n_tries - 1, backoff_factor=backoff, backoff_jitter=backoff, backoff_max=MAX_WAIT
        )
        self._exhausted, self._malformed = urllib3.exceptions.MaxRetryError, urllib3.exceptions.InvalidHeader
        self._errors = (requests.RequestException, urllib3.exceptions.HTTPError)
        self._hopeless = (requests.TooManyRedirects, ValueError)  # ValueErrors: an address that is none
        self._timeouts = (requests.Timeout, urllib3.exceptions.TimeoutError)
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"gpt2rt/{__version__}"
        self._session.headers["Accept-Encoding"] = "identity"  # lengths and ranges are those of the file
        self._session.max_redirects = MAX_REDIRECTS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def url(self, name: str) -> str:
        return f"{self._folder_url}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where the server doesn't tell."""

        def ask() -> int | None:
            with self._answer("HEAD", name) as answer:
                if answer.status_code in NO_HEAD:
                    return None
                if answer.status_code != 200:
                    raise self._refusal(name, answer)
                return _number(answer.headers.get("Content-Length"))

        return self._tried(name, ask)

    def fetch(self, name: str, part: Part, advance: Callable[[int], None]) -> None:
        """Fetches what a part lacks. Args: advance, called with the bytes of the file that are there."""

        def ask() -> None:
            begin = part.size
            ranges = {"Range": f"bytes={begin}-", "If-Range": part.version} if begin and part.version else {}
            with self._answer("GET", name, ranges) as answer:
                if self._goes_on(name, answer, part, begin):
                    self._receive(name, answer, part, begin if answer.status_code == 206 else 0, advance)

        self._tried(name, ask, part)

    def _goes_on(self, name: str, answer: requests.Response, part: Part, begin: int) -> bool:
        """Whether the answer brings what comes next, or the file from the start; not where the part is whole."""
        version, (first, total) = _version(answer.headers), _content_range(answer.headers)
        if answer.status_code == 200:
            return True
        if not begin or answer.status_code not in (206, 416):
            raise self._refusal(name, answer)
        if version in (None, part.version) and answer.status_code == 416 and total == begin:
            return False
        if answer.status_code == 416 or version not in (None, part.version) or first != begin:
            part.clear()
            raise _PassingError("the server's file has changed, or it sends another range than it was asked for")
        return True

    def _receive(
        self, name: str, answer: requests.Response, part: Part, begin: int, advance: Callable[[int], None]
    ) -> None:
        """Appends the answer's body to the part."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(
                f"{self.url(name)}: comes in {answer.headers['Content-Encoding']!r}, expected it as it is"
            )
        length = _number(answer.headers.get("Content-Length"))
        expected = part.expected if length is None else begin + length
        done = begin
        with part.open(begin, _version(answer.headers)) as file:
            while piece := answer.raw.read1(PIECE):
                done += len(piece)
                if expected is not None and done > expected:
                    part.clear()
                    raise DownloadError(f"{self.url(name)}: more than {expected} bytes came, expected no more")
                file.write(piece)
                part.reached = max(part.reached, done)
                advance(done)
        if expected is not None and done < expected:
            raise _PassingError(f"{done} bytes came, expected {expected}")

    @contextlib.contextmanager
    def _answer(self, method: str, name: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """The server's answer, its body not yet read. What may pass is a _PassingError, also inside."""
        try:
            with self._session.request(
                method, self.url(name), headers=headers, stream=True, timeout=self._timeout
            ) as answer:
                if answer.status_code in PASSING:
                    raise _PassingError(_status(answer), answer.raw)
                yield answer
        except self._hopeless as error:
            raise DownloadError(f"{self.url(name)}: its address can't be followed: {error}") from None
        except self._errors as error:
            raise _PassingError(self._reason(error)) from None

    def _refusal(self, name: str, answer: requests.Response) -> DownloadError:
        return DownloadError(f"{self.url(name)}: {_status(answer)}, expected the file (is the address right?)")

    def _reason(self, error: BaseException | None) -> str:
        """Why a request failed, in words."""
        if isinstance(error, self._timeouts):
            return f"no answer for {self._timeout} s"
        while error is not None:
            if isinstance(error, OSError) and not isinstance(error, self._errors) and error.strerror:
                return error.strerror
            error = error.__cause__ or error.__context__
        return "the connection was cut"

    def _tried(self, name: str, ask: Callable[[], Result], part: Part | None = None) -> Result:
        """What ask() returns, after as many tries as it takes and as there are."""
        retries = self._retries
        while True:
            begin = part.reached if part else 0
            try:
                return ask()
            except _PassingError as error:
                if part and part.reached - begin >= ENOUGH:
                    retries = self._retries
                try:
                    retries = retries.increment("GET", self.url(name), error=error)
                except self._exhausted:
                    raise DownloadError(
                        f"{self.url(name)}: {error}, at the last of {self._n_tries} tries (what has come is kept; the"
                        " same command goes on)"
                    ) from None
                retries.sleep(error.answer if self._wants_a_wait(retries, error.answer) else None)

    def _wants_a_wait(self, retries: urllib3.Retry, answer: urllib3.BaseHTTPResponse | None) -> bool:
        """Whether the server says when to come again, and that is soon."""
        if answer is None:
            return False
        try:
            return (retries.get_retry_after(answer) or 0) <= MAX_WAIT
        except self._malformed:
            return False


def _status(answer: requests.Response) -> str:
    return f"the server answers {answer.status_code} {answer.reason:.80}"


def _number(text: str | None) -> int | None:
    """The number of a header, None where there is none."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else None


def _version(headers: Mapping[str, str]) -> str | None:
    """What tells this version of a file from others in If-Range: a strong ETag, else its date, else None."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """The first byte and the whole length of Content-Range, None for what it doesn't tell."""
    match = re.fullmatch(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)", headers.get("Content-Range", ""))
    return (_number(match[1]), _number(match[2])) if match else (None, None)
