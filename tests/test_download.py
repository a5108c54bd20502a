"""Downloads from a server on this machine that cuts, lies, refuses and redirects."""

import email.utils
import subprocess
import sys
import time

import pytest
from checkpoints import data_file, write_checkpoint
from conftest import shared
from release_server import SIZE, answers, closes, cuts_after, says_length, serving, stalls, talks_nonsense

from gpt2rt.cli import run
from gpt2rt.converter.download import DATA, ENCODER, FILES, INDEX, MERGES, download
from gpt2rt.errors import DownloadError, UsageError
from gpt2rt.modelfile import ModelFile

resource = pytest.importorskip("resource", reason="limits file sizes as POSIX does")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A tiny checkpoint in the release's layout."""
    folder = tmp_path_factory.mktemp("downloads") / "release"
    write_checkpoint(folder)
    (folder / "model.ckpt.meta").write_bytes(b"a graph")
    return folder


@pytest.fixture
def server(release):
    with serving({name: (release / name).read_bytes() for name in FILES}) as server:
        yield server


def fetch(server, tmp_path, size=SIZE, **options):
    return download(size, tmp_path / "got", base_url=server.url, **{"backoff": 0, "timeout": 10, **options})


def assert_complete(tmp_path, release):
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == {
        name: (release / name).read_bytes() for name in FILES
    }


def n_bytes(release, name=DATA):
    return (release / name).stat().st_size


# What comes


def test_all_files_come(server, tmp_path, release):
    result = fetch(server, tmp_path)
    assert_complete(tmp_path, release)
    assert (result.folder, result.fetched, result.kept) == (str(tmp_path / "got"), list(FILES), [])
    assert result.size == sum(n_bytes(release, name) for name in FILES)


def test_files_go_to_models_by_default(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download(SIZE, base_url=server.url + "/").folder == f"models/{SIZE}"


def test_complete_files_are_not_fetched_again(server, tmp_path, release):
    fetch(server, tmp_path)
    (tmp_path / "got" / "hparams.json").unlink()
    server.requests.clear()
    result = fetch(server, tmp_path)
    assert (result.fetched, len(result.kept)) == (["hparams.json"], 6)
    assert [path for method, path, _ in server.requests if method == "GET"] == [f"/models/{SIZE}/hparams.json"]
    assert_complete(tmp_path, release)


def test_progress_counts_the_bytes_of_all_files(server, tmp_path, release):
    calls = []
    fetch(server, tmp_path, progress=lambda *call: calls.append(call))
    size = sum(n_bytes(release, name) for name in FILES)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1] == (DATA, size, size)


def test_server_without_head_is_asked_without_sizes(server, tmp_path, release):
    for name in FILES:
        server.fail(name, answers(405), method="HEAD")
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


# Cuts


def test_cut_connection_goes_on_where_it_was(server, tmp_path, release):
    server.fail(DATA, cuts_after(50_000), closes)
    fetch(server, tmp_path)
    ranges = [(headers.get("Range"), headers.get("If-Range")) for headers in server.asked("GET", DATA)]
    assert ranges == [(None, None), ("bytes=50000-", '"v1"'), ("bytes=50000-", '"v1"')]
    assert_complete(tmp_path, release)


def test_later_run_goes_on_where_the_first_one_stopped(server, tmp_path, release):
    server.fail(DATA, cuts_after(50_000))
    with pytest.raises(DownloadError, match=f"{DATA}: the connection was cut, at the last of 1 tries .what has"):
        fetch(server, tmp_path, n_tries=1)
    assert (tmp_path / "got" / f"{DATA}.part").stat().st_size == 50_000
    fetch(server, tmp_path)
    assert server.asked("GET", DATA)[-1]["Range"] == "bytes=50000-"
    assert_complete(tmp_path, release)


def test_part_that_is_the_whole_file_is_taken(server, tmp_path, release):
    server.fail(DATA, cuts_after(n_bytes(release) - 1))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, n_tries=1)
    with open(tmp_path / "got" / f"{DATA}.part", "ab") as file:
        file.write(data_file(release).read_bytes()[-1:])
    fetch(server, tmp_path)
    ranges = [headers.get("Range") for headers in server.asked("GET", DATA)]
    assert ranges == [None, f"bytes={n_bytes(release)}-"]  # not a third time
    assert_complete(tmp_path, release)


def test_changed_file_is_not_joined_to_the_old_one(server, tmp_path, release):
    server.fail(DATA, cuts_after(50_000))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, n_tries=1)
    part = tmp_path / "got" / f"{DATA}.part"
    part.write_bytes(b"\0" * 50_000)
    server.etag = '"v2"'
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_range_of_another_version_is_thrown_away(server, tmp_path, release):
    def sends_another_version(handler):
        content = handler.server.files[handler.path]
        server.etag = '"v2"'
        handler.say(
            206, {"Content-Range": f"bytes 50000-{len(content) - 1}/{len(content)}"}, b"x" * len(content[50000:])
        )
        return True

    server.fail(DATA, cuts_after(50_000), sends_another_version)
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_wrong_range_is_thrown_away(server, tmp_path, release):
    server.fail(DATA, cuts_after(50_000), answers(206, Content_Range="bytes 7-8/9"))
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


@pytest.mark.parametrize(
    ("whole", "is_new"),
    [(None, False), ("bytes */50000", True), ("bytes 50000-50001/50002", True), ("bytes 50000-50001/50002", False)],
    ids=["no size", "the size of another version", "a range of another version", "a range"],
)
def test_answer_that_there_are_no_more_bytes_of_another_file_starts_again(server, tmp_path, release, whole, is_new):
    def has_no_more(handler):
        if is_new:
            server.etag = '"v2"'
        handler.say(416, {"Content-Range": whole} if whole else {})
        return True

    server.fail(DATA, cuts_after(50_000), has_no_more)
    fetch(server, tmp_path)
    ranges = [headers.get("Range") for headers in server.asked("GET", DATA)]
    assert ranges == [None, "bytes=50000-", None]
    assert_complete(tmp_path, release)


def test_server_without_ranges_starts_again(server, tmp_path, release):
    server.ranges = False
    server.fail(DATA, cuts_after(50_000))
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_part_of_no_known_version_is_not_gone_on_from(server, tmp_path, release, etag):
    server.etag = etag
    server.fail(DATA, cuts_after(50_000))
    fetch(server, tmp_path)
    assert [headers.get("Range") for headers in server.asked("GET", DATA)] == [None, None]
    assert_complete(tmp_path, release)


def test_date_stands_in_for_an_etag(server, tmp_path):
    date = email.utils.formatdate(0, usegmt=True)

    def cuts(handler):
        content = handler.server.files[handler.path]
        handler.say(200, {"Last-Modified": date}, content[:50_000], length=len(content))
        handler.close_connection = True
        return True

    server.etag = None
    server.fail(DATA, cuts)
    fetch(server, tmp_path)
    assert server.asked("GET", DATA)[-1]["If-Range"] == date


@pytest.mark.parametrize("fault", [closes, talks_nonsense, *map(answers, (408, 429, 500, 502, 503, 504))])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_passing_fault_is_tried_again(server, tmp_path, release, method, fault):
    server.fail(INDEX, fault, fault, method=method)
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_tries_are_bounded(server, tmp_path):
    server.fail(DATA, *[answers(503)] * 9)
    with pytest.raises(DownloadError, match="the server answers 503 Service Unavailable, at the last of 5 tries"):
        fetch(server, tmp_path, n_tries=5)
    assert len(server.asked("GET", DATA)) == 5


def test_tries_of_a_server_that_cuts_and_knows_no_ranges_are_bounded(server, tmp_path):
    server.ranges = False
    server.files[f"/models/{SIZE}/{DATA}"] = b"x" * (4 << 20)
    server.fail(DATA, *[cuts_after(3 << 20)] * 99)
    with pytest.raises(DownloadError, match="tries"):
        fetch(server, tmp_path, n_tries=3)
    assert len(server.asked("GET", DATA)) == 3  # what came again and again is no progress


def test_server_says_when_to_come_again(server, tmp_path):
    server.fail("checkpoint", answers(429, Retry_After="1"))
    begin = time.monotonic()
    fetch(server, tmp_path)
    assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("wait", ["86400", "soon", "-5"])
def test_absurd_waits_are_not_kept(server, tmp_path, release, wait):
    server.fail("checkpoint", answers(503, Retry_After=wait))
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_server_that_falls_silent_is_left(server, tmp_path, release):
    server.fail(DATA, stalls)
    fetch(server, tmp_path, timeout=0.1)
    assert_complete(tmp_path, release)


def test_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        DownloadError, match=r"http://127\.0\.0\.1:9/355M/checkpoint: Connection refused, at the last of 2"
    ):
        download(SIZE, tmp_path / "got", base_url="http://127.0.0.1:9", n_tries=2, backoff=0)


# Lies


def test_length_beyond_the_end_is_seen_through(server, tmp_path, release):
    server.fail(DATA, says_length(+1000))
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_length_that_cuts_the_file_is_found_by_the_index(server, tmp_path, release):
    server.fail(DATA, says_length(-1000))
    size = n_bytes(release)
    message = (
        f"{DATA}: got {size - 1000} bytes, expected {size} according to the index; {DATA}: deleted, the same command do"
    )
    with pytest.raises(DownloadError, match=message):
        fetch(server, tmp_path)
    assert not (tmp_path / "got" / DATA).exists()
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


def test_more_than_was_said_is_refused(server, tmp_path, release):
    def sends_without_end(handler):
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(handler.server.files[handler.path] + b"more")
        handler.close_connection = True
        return True

    server.fail("checkpoint", sends_without_end)
    with pytest.raises(DownloadError, match=rf"checkpoint: got more than {n_bytes(release, 'checkpoint')} bytes"):
        fetch(server, tmp_path)
    assert list((tmp_path / "got").iterdir()) == []


@pytest.mark.parametrize("name", [ENCODER, MERGES, INDEX])
def test_wrong_small_file_is_found_before_the_weights_come(server, tmp_path, name):
    server.files[f"/models/{SIZE}/{name}"] = b"<html>"
    with pytest.raises(DownloadError, match=f"got/{name}: .*deleted, the same command downloads it again"):
        fetch(server, tmp_path)
    assert server.asked("GET", DATA) == []
    assert not (tmp_path / "got" / name).exists()


def test_wrong_weights_are_deleted(server, tmp_path, release):
    content = bytearray(data_file(release).read_bytes())
    content[1234] ^= 1
    server.files[f"/models/{SIZE}/{DATA}"] = bytes(content)
    with pytest.raises(DownloadError, match=rf"tensor 'model/.*' is damaged: .*; {DATA}: deleted"):
        fetch(server, tmp_path)
    assert not (tmp_path / "got" / DATA).exists()
    server.files[f"/models/{SIZE}/{DATA}"] = data_file(release).read_bytes()
    assert fetch(server, tmp_path).fetched == [DATA]


def test_file_that_was_there_is_never_deleted(server, tmp_path, release):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / DATA).write_bytes(bytes(n_bytes(release)))
    with pytest.raises(DownloadError, match=rf"is damaged.*; {DATA}: not from this run, move it away"):
        fetch(server, tmp_path)
    assert (tmp_path / "got" / DATA).stat().st_size == n_bytes(release)


def test_file_of_another_size_is_neither_kept_nor_replaced(server, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "hparams.json").write_text("{}")
    with pytest.raises(DownloadError, match=r"hparams\.json: already exists with 2 bytes, expected the server's"):
        fetch(server, tmp_path)
    assert (tmp_path / "got" / "hparams.json").read_text() == "{}"


@pytest.mark.parametrize("name", [ENCODER, MERGES, INDEX])
def test_sha256_of_the_known_files_is_checked(server, tmp_path, name):
    for other in FILES:
        path = shared("gpt2", other) if other != DATA else None
        server.files[f"/models/124M/{other}"] = path.read_bytes() if path else b"never asked for"
    server.files[f"/models/124M/{name}"] += b"\n"
    with pytest.raises(
        DownloadError, match=f"/124M/{name}: got a file with SHA-256 [0-9a-f]{{64}}, expected OpenAI's, "
    ):
        fetch(server, tmp_path, "124M")
    assert not [path for path in (tmp_path / "got").iterdir() if path.name.startswith(name)]


def test_openais_own_small_files_pass(server, tmp_path):
    for name in FILES[:-1]:
        server.files[f"/models/124M/{name}"] = shared("gpt2", name).read_bytes()
    server.files[f"/models/124M/{DATA}"] = b"short"
    with pytest.raises(
        DownloadError, match=f"{DATA}: got 5 bytes, expected 497759232 according to the index; {DATA}: deleted"
    ):
        fetch(server, tmp_path, "124M")


# Refusals


def test_missing_file_is_refused_at_once(server, tmp_path):
    del server.files[f"/models/{SIZE}/{MERGES}"]
    with pytest.raises(DownloadError, match=rf"/{SIZE}/vocab\.bpe: the server answers 404 Not Found, expected"):
        fetch(server, tmp_path)
    assert len(server.asked("HEAD", MERGES)) == 1


@pytest.mark.parametrize("status", [204, 206, 304, 403, 410, 416])
def test_answer_that_is_no_file_is_refused(server, tmp_path, status):
    server.fail("checkpoint", answers(status))
    with pytest.raises(DownloadError, match=f"checkpoint: the server answers {status} "):
        fetch(server, tmp_path)


def test_redirect_is_followed(server, tmp_path, release):
    server.files["/elsewhere"] = server.files.pop(f"/models/{SIZE}/{DATA}")
    for method in ("HEAD", "GET"):
        server.fail(DATA, answers(302, Location="/elsewhere"), method=method)
    fetch(server, tmp_path)
    assert_complete(tmp_path, release)


@pytest.mark.parametrize("location", ["checkpoint", "ftp://127.0.0.1/x", "http://[::1"])
def test_redirect_to_nowhere_is_refused(server, tmp_path, location):
    server.fail("checkpoint", *[answers(302, Location=location)] * 99, method="HEAD")
    with pytest.raises(DownloadError, match="/checkpoint: "):
        fetch(server, tmp_path, n_tries=1)
    assert len(server.requests) <= 6


def test_compressed_body_is_refused(server, tmp_path):
    server.fail("checkpoint", answers(200, Content_Encoding="gzip"))
    with pytest.raises(DownloadError, match="checkpoint: got a body encoded as 'gzip', expected the file's own bytes"):
        fetch(server, tmp_path)


@pytest.mark.parametrize(
    ("size", "base_url", "message"),
    [
        ("117M", "http://127.0.0.1:9", "size '117M': expected one of 124M, 355M, 774M, 1558M"),
        ("../x", "http://127.0.0.1:9", "size"),
        (SIZE, "file:///etc", "base URL 'file:///etc': expected one that starts with https:// or http://"),
        (SIZE, "openai.com", "base URL"),
        (SIZE, "http://[x", "base URL"),
    ],
)
def test_argument_is_refused_by_name(tmp_path, size, base_url, message):
    with pytest.raises(UsageError, match=message):
        download(size, tmp_path / "got", base_url=base_url)
    assert not (tmp_path / "got").exists()


# The disk


def test_room_is_looked_for_first(server, tmp_path):
    server.fail(DATA, lambda handler: handler.say(200, length=10**17) or True, method="HEAD")
    with pytest.raises(DownloadError, match=r"got: \d+ bytes are free, the files need 1000\d+ more"):
        fetch(server, tmp_path)
    assert {method for method, _, _ in server.requests} == {"HEAD"}


def test_full_disk_is_a_sentence_and_keeps_the_part(server, tmp_path, release):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, old[1]))
    try:
        with pytest.raises(DownloadError, match=r"can't be written: File too large [(]what has arrived is kept"):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert (tmp_path / "got" / f"{DATA}.part").stat().st_size == 40_000
    fetch(server, tmp_path)
    assert server.asked("GET", DATA)[-1]["Range"] == "bytes=40000-"
    assert_complete(tmp_path, release)


def test_folder_that_is_a_file_is_refused(server, tmp_path):
    (tmp_path / "got").write_text("")
    with pytest.raises(DownloadError, match="got: can't be written: File exists"):
        fetch(server, tmp_path)


# The command


@pytest.fixture
def command(server, tmp_path, monkeypatch, capsys):
    """Runs `gpt2rt download` in tmp_path: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(["download", "--base-url", server.url, *arguments])
        return code, *capsys.readouterr()

    return call


def test_command_ends_with_what_to_do_next(command, release):
    size = sum(n_bytes(release, name) for name in FILES) / 1e6
    first = f"my models: 7 files downloaded; {size:.1f} MB, every tensor matches its checksum\n"
    assert command(SIZE, "-d", "my models") == (0, first + "now: gpt2rt convert 'my models'\n", "")
    assert command(SIZE, "-d", "my models")[1].startswith("my models: 0 files downloaded, 7 already there; ")


@pytest.mark.parametrize(("options", "expected"), [(["--convert"], "int8"), (["--convert", "f32"], "f32")])
def test_command_goes_on_to_convert(command, tmp_path, options, expected):
    code, out, _ = command(SIZE, *options)
    assert code == 0
    assert f"{SIZE}-{expected}.bin: " in out
    assert ModelFile(tmp_path / f"{SIZE}-{expected}.bin").weight_type == expected


def test_command_refuses_a_type_before_it_asks(command, server):
    code, _, err = command(SIZE, "--convert", "int3")
    assert (code, server.requests) == (2, [])
    assert err == "gpt2rt: --convert: got 'int3', expected one of int8, int4, f16, f32\n"


def test_ctrl_c_keeps_the_part_and_says_how_to_go_on(command, server, tmp_path, release):
    def interrupts(handler):
        import _thread

        content = handler.server.files[handler.path]
        handler.say(200, {}, content[:50_000], length=len(content))
        handler.wfile.flush()
        _thread.interrupt_main()
        handler.rfile.read(1)  # until the client leaves
        handler.close_connection = True
        return True

    server.fail(DATA, interrupts)
    code, out, err = command(SIZE, "-d", "got")
    assert (code, out) == (130, "")
    assert err == "gpt2rt: stopped; what has arrived is kept, and the same command resumes\n"
    assert command(SIZE, "-d", "got")[0] == 0
    assert_complete(tmp_path, release)


def test_downloading_needs_the_standard_library_and_numpy_alone():
    program = "import gpt2rt.converter.download, sys; print({'requests', 'urllib3', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
