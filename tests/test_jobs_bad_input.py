"""gpt2rt batch with bad rows and bad files: one answer for each row, in order, or one sentence."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest
from job_runs import Batch, ended, start, tiny_model, without_privileges

from gpt2rt.errors import UsageError
from gpt2rt.jobs.source import Source

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def batch(cli, model, tmp_path):
    return Batch(cli, model, tmp_path)


class TestRows:
    @pytest.mark.parametrize(
        ("row", "error"),
        [
            (b"nonsense", "not valid JSON: got 'nonsense'"),
            (b'{"text": "abc"', 'not valid JSON: got \'{"text": "abc"\''),
            (b'{"text": "abc",}', 'not valid JSON: got \'{"text": "abc",}\''),
            (b'{"text": "\xff"}', "not valid JSON: byte 10 is not UTF-8"),
            (b'{"text": "\xed\xa0\x80"}', "not valid JSON: byte 10 is not UTF-8"),
            (b"\x00\x00", r"not valid JSON: got '\x00\x00'"),
            (b"[1, 2]", "got [1, 2], expected a JSON object"),
            (b'"text"', 'got "text", expected a JSON object'),
            (b"null", "got null, expected a JSON object"),
            (b'{"text": 5}', "text: got 5, expected text"),
            (b'{"other": 5}', "text: the row has no such field, expected text"),
            (b'{"text": "abc", "x": NaN}', "not valid JSON: NaN (use null)"),
            (b'{"text": "abc", "x": -Infinity}', "not valid JSON: -Infinity (use null)"),
            (b'{"text": "abc", "x": 1e999}', "a number is too large: 1e999"),
            (b'{"id": 1.0, "text": "abc"}', "id: got 1.0, expected text or a whole number"),
            (b'{"id": true, "text": "abc"}', "id: got true, expected text or a whole number"),
            (b'{"id": ["a"], "text": "abc"}', 'id: got ["a"], expected text or a whole number'),
            (b'{"id": %s, "text": "abc"}' % (b"9" * 5000), "a number has more than 1000 digits"),
            (b'{"text": "abc", "row": 3}', "row: the answer has a field with this name (rename the row's)"),
        ],
    )
    def test_a_bad_row_is_answered_with_an_error_between_its_neighbors(self, batch, row, error):
        first, bad, last = batch.answers(b'{"text": "abc"}\n' + row + b'\n{"text": "abcd"}\n', "--copy")
        assert bad["error"] == error
        assert first["tokens"] == list(b"abc")
        assert last["tokens"] == list(b"abcd")

    @pytest.mark.parametrize("depth", [257, 500, 900, 960, 1000, 100_000])
    def test_values_nested_too_deep_are_an_error_wherever_they_are(self, batch, depth):
        deep = b"[" * depth + b"]" * depth
        rows = (
            b'{"text": "abc", "x": %s}',
            b"%s",
            b'{"text": %s}',
            b'{"id": %s, "text": "abc"}',
            b'{"text": "abc", "x": %s',
        )
        content = b"".join(row % deep + b"\n" for row in rows) + b'{"text": "abc"}'
        *bad, good = batch.answers(content, "--copy")
        assert {answer["error"] for answer in bad} == {"its values are nested more than 256 deep"}
        assert good["tokens"] == list(b"abc")

    def test_values_nested_less_deep_are_copied_and_brackets_in_a_text_are_text(self, batch):
        deep = b"[" * 255 + b"]" * 255
        rows = b'{"text": "abc", "x": %s}\n' % deep, b'{"text": "%s", "x": "\\"%s"}\n' % (b"[" * 60, b"[" * 500)
        first, second = batch.answers(b"".join(rows), "--copy")
        assert first["x"] == json.loads(deep)
        assert second["x"] == '"' + "[" * 500

    @pytest.mark.slow
    def test_a_row_longer_than_16_mb_is_an_error(self, batch):
        rows = [b'{"text": "%s"}' % (b"x" * n) for n in (3, (16 << 20) - 12, (16 << 20) - 11, 33 << 20)]
        answers = batch.answers(b"\n".join([*rows, b'{"text": "abcd"}']))
        assert [answer.get("error", "")[:30] for answer in answers] == [
            "",
            "text: 16777203 tokens, but the",  # as long as a row may be
            "it is longer than 16 MB",
            "it is longer than 16 MB",
            "",
        ]

    def test_half_surrogate_pairs_come_back_as_they_were(self, batch):
        rows = [{"id": "\ud800", "text": "abc", "x": {"\udfff": "\ud83d\ude00"}}, {"id": "\ud800", "text": "a\udc00"}]
        rows.append({"id": 3, "text": "a\udc00b"})
        first, second, third = batch.answers("\n".join(map(json.dumps, rows)).encode(), "--copy")
        assert {name: first[name] for name in rows[0]} == {**rows[0], "x": {"\udfff": "😀"}}
        assert second["error"] == r"id: row 0 has the same, '\ud800'"
        assert (third["id"], third["text"]) == (3, "a\udc00b")

    def test_later_rows_with_the_same_id_name_the_first_one(self, batch):
        ids = [1, "1", "a", 1, "a", None, None, "a", "1", 10**900, 10**900]
        answers = batch.answers(b"".join(json.dumps({"id": one, "text": "abc"}).encode() + b"\n" for one in ids))
        errors = [answer.get("error") for answer in answers]
        assert errors[:3] == [None] * 3
        assert errors[3:9] == [
            "id: row 0 has the same, 1",
            "id: row 2 has the same, 'a'",
            None,
            None,
            "id: row 2 has the same, 'a'",
            "id: row 1 has the same, '1'",
        ]
        assert errors[9] is None
        assert errors[10].startswith("id: row 9 has the same, 1000")

    def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(self, batch):
        plain = batch.answers(b'{"text": "abc"}\n{"text": "abcd"}\n{"text": "abcde"}\n')
        other = b'\xef\xbb\xbf{"text": "abc"}\r\n\r\n \t \n{"text": "abcd"}  \r\n\n{"text": "abcde"}'
        assert batch.answers(other, out=batch.folder / "other") == plain

    def test_a_byte_order_mark_alone_and_blank_lines_are_no_rows(self, batch):
        assert batch.answers(b"\xef\xbb\xbf\n\n  \r\n") == []
        assert batch.answers(b"", out=batch.folder / "empty") == []

    def test_an_unknown_field_of_a_request_is_named_in_the_same_order_in_all_runs(self, model, tmp_path):
        fields = {f"field {i}": 0 for i in range(20)}
        (tmp_path / "rows.jsonl").write_text(json.dumps({"custom_id": "a", "url": "/v1/completions", **fields}))
        for seed in "123":
            merged = tmp_path / f"{seed}.jsonl"
            options = tmp_path / "rows.jsonl", tmp_path / f"out{seed}", "--processes", 1, "--merge", merged
            assert ended(start(model, *options, env={**os.environ, "PYTHONHASHSEED": seed}))[0] == 0
            assert "row 0: field 0: unknown field" in merged.read_text()


class TestInput:
    @pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.bz2", "rows.jsonl.xz", "rows.jsonl.zst"])
    def test_what_can_not_be_unpacked_is_refused(self, batch, name):
        assert batch.refused(batch.source(b'{"text": "abc"}\n', name=name)).startswith(f"{batch.folder / name}: ")
        assert not batch.out.exists()

    @pytest.mark.parametrize("n_bytes", [5, 100, 2000, -1])
    def test_a_packed_file_that_was_cut_is_refused(self, batch, n_bytes):
        packed = gzip.compress(b"".join(b'{"text": "%d"}\n' % i**9 for i in range(1000)))
        error = batch.refused(batch.source(packed[:n_bytes], name="rows.jsonl.gz"))
        assert error.startswith(f"{batch.folder / 'rows.jsonl.gz'}: can't be read: Compressed file ended")

    def test_what_is_no_file_is_refused(self, batch):
        assert batch.refused(batch.folder / "missing") == f"{batch.folder / 'missing'}: no such file"
        assert ": not a regular file (" in batch.refused(batch.folder)
        assert batch.refused("rows\0.jsonl").endswith("can't be read: embedded null byte")

    @needs_posix
    def test_what_can_be_read_only_once_is_refused_at_once(self, batch):
        os.mkfifo(batch.folder / "pipe")
        expected = ": not a regular file (a job reads its input more than once)"
        assert batch.refused(batch.folder / "pipe").endswith(expected)
        arguments = batch.model, "/dev/stdin", batch.out, "--task", "score"
        assert ended(start(*arguments, stdin=subprocess.PIPE))[1].endswith(f"{expected}\n")

    @pytest.mark.skipif(sys.platform != "linux", reason="there /dev/stdin is not the file")
    def test_standard_input_may_be_a_file(self, batch):
        with open(batch.source(), "rb") as file:
            code, error = ended(start(batch.model, "/dev/stdin", batch.out, "--task", "score", stdin=file))
        assert code == 0, error
        assert "20 of 20 rows done" in error

    @pytest.mark.skipif(sys.platform != "linux", reason="root may read anything")
    def test_a_file_without_permission_is_refused(self, batch):
        source = batch.source()
        source.chmod(0)
        arguments = batch.model, source, batch.out, "--task", "score"
        code, error = ended(start(*arguments, preexec_fn=without_privileges))
        assert (code, error) == (2, f"gpt2rt: {source}: can't be read: Permission denied\n")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "change", ["longer", "shorter", "cut in a line", "empty", "replaced", "touched", "removed"]
    )
    def test_a_file_that_changes_while_it_is_read_is_noticed(self, batch, change):
        path = batch.source(n_rows=100_000)  # more than is read at a time
        source = Source(str(path), id_field="id")
        survey = source.survey("text")
        shards = source.shards(survey, 10, lambda _: True)
        assert next(shards).number == 0
        if change == "longer":
            with open(path, "ab") as file:
                file.write(b'{"text": "abc"}\n')
        elif change == "replaced":
            shutil.copy(path, batch.folder / "other")
            os.replace(batch.folder / "other", path)
        elif change == "touched":
            os.utime(path, (1, 1))
        elif change == "removed":
            path.unlink()
        else:
            os.truncate(path, {"shorter": 1_000_000, "cut in a line": path.stat().st_size - 5, "empty": 0}[change])
        with pytest.raises(UsageError, match=r"it changed while it was read|no such file"):
            list(shards)

    def test_a_file_that_changes_between_two_runs_is_another_job(self, batch):
        source = batch.source()
        assert batch.run(source)[0] == 0
        batch.source(source.read_bytes() + b'{"text": "abc"}\n')
        assert "it has another job: input.sha256 is " in batch.refused(source)

    def test_numbers_of_a_parquet_file_that_json_does_not_have_become_null(self, batch):
        arrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {
            "text": ["abc", "abcd"],
            "x": [float("nan"), 0.5],
            "y": [[float("inf"), 1.0], []],
            "z": [{"a": float("-inf")}, {"a": 2.0}],
        }
        parquet.write_table(arrow.table(columns), batch.folder / "rows.parquet")
        code, error = batch.run(batch.folder / "rows.parquet", "--copy", "--merge", batch.merged)
        assert code == 0, error
        first, second = (json.loads(line, parse_constant=pytest.fail) for line in batch.merged.open())
        assert (first["x"], first["y"], first["z"]) == (None, [None, 1.0], {"a": None})
        assert (second["x"], second["y"], second["z"]) == (0.5, [], {"a": 2.0})
