"""A server's folder of files: where redirects lead, and who gets a password."""

import base64

import pytest
from release_server import SIZE, answers, serving

from gpt2rt.converter.mirror import Mirror
from gpt2rt.errors import DownloadError


@pytest.fixture
def server():
    """A server with one file, `checkpoint`, of 5 bytes."""
    with serving({"checkpoint": b"12345"}) as server:
        yield server


def size(base_url):
    """The size of `checkpoint` there."""
    with Mirror(f"{base_url}/{SIZE}", 1, 0, 10) as mirror:
        return mirror.size("checkpoint")


def test_a_password_in_the_address_goes_to_its_host_alone(server):
    elsewhere = f"http://localhost:{server.server_port}/models/{SIZE}/checkpoint"
    server.fail("checkpoint", answers(302, Location=elsewhere), method="HEAD")
    assert size(server.url.replace("//", "//me:p%40ss@")) == 5
    first, redirected = server.asked("HEAD", "checkpoint")
    assert first["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "Authorization" not in redirected


def test_a_password_in_the_address_is_in_no_message(server):
    server.fail("checkpoint", answers(401), method="HEAD")
    with pytest.raises(DownloadError) as raised:
        size(server.url.replace("//", "//me:secret@"))
    assert str(raised.value).startswith(f"{server.url}/{SIZE}/checkpoint: the server answers 401 Unauthorized")


@pytest.mark.parametrize("location", ["http://127.0.0.1/x", "//127.0.0.1:x/y", "ftp://127.0.0.1/x", "file:///x"])
def test_a_redirect_out_of_https_is_refused(location):
    with Mirror("https://127.0.0.1/models", 1, 0, 1) as mirror, pytest.raises(DownloadError, match="be followed: "):
        mirror._response("GET", "x", mirror._redirected("x", "https://127.0.0.1/models/x", location), {})


def test_a_redirect_from_http_may_lead_to_https():
    with Mirror("http://127.0.0.1/models", 1, 0, 1) as mirror:
        assert mirror._redirected("x", "http://127.0.0.1/models/x", "https://a/b") == "https://a/b"


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    server.files[f"http://mirror.example/{SIZE}/checkpoint"] = b"123"
    assert size("http://mirror.example") == 3


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:x", "http://127.0.0.1:9/\n", "http://a b"])
def test_an_address_that_cannot_be_used_is_a_sentence(base_url):
    with pytest.raises(DownloadError, match="/checkpoint: "):
        size(base_url)
