"""gpt2rt batch: answers depend on their row, the model and the settings alone."""

import datetime
import gzip
import json
import lzma
import math

import numpy as np
import pytest
from demo import demo_model
from jobs import Batch, read_rows, texts, write_rows

from gpt2rt import UsageError
from gpt2rt.jobs import generate_shard, score_shard
from gpt2rt.jobs.row import row_seed
from gpt2rt.perplexity import perplexity


@pytest.fixture
def batch(cli, tmp_path):
    return Batch(cli, tmp_path)


class TestAnswers:
    def test_a_completion_is_that_of_generate_with_the_seed_in_the_answer(self, batch):
        rows = texts(20)
        for row, answer in zip(rows, batch.answers(rows, "--task", "generate", "-n", 12, "--seed", 5), strict=True):
            expected = demo_model().generate(row["text"], max_tokens=12, seed=answer["seed"])
            assert answer["completion"] == expected.text()
            assert answer["finish_reason"] == expected.finish_reason
            assert answer["n_tokens"] == expected.n_tokens
            assert answer["id"] == row["id"]

    def test_sampling_options_apply(self, batch):
        options = ("--temperature", 0, "--stop", ".", "-n", 30)
        answer, *_ = batch.answers([{"text": "Once upon a time"}], "--task", "generate", *options)
        expected = demo_model().generate("Once upon a time", temperature=0, stop=".", max_tokens=30)
        assert answer["completion"] == expected.text()

    def test_a_seed_follows_from_the_seed_of_the_job_and_the_id_of_the_row(self, batch):
        rows = [{"id": "a", "text": "The"}, {"text": "The"}, {"id": 7, "text": "The"}]
        seeds = [answer["seed"] for answer in batch.answers(rows, "--task", "generate", "-n", 1, "--seed", 3)]
        assert seeds == [row_seed(3, 0, '"a"'), row_seed(3, 1, None), row_seed(3, 2, "7")]
        assert len(set(seeds)) == 3

    def test_the_seed_of_a_row_stays_the_same_in_all_versions(self):
        assert row_seed(0, 0, '"a"') == 13777268098015768142

    def test_an_empty_text_is_continued_as_a_new_document(self, batch):
        (answer,) = batch.answers([{"text": ""}], "--task", "generate", "-n", 8)
        assert answer["completion"] == demo_model().generate("", max_tokens=8, seed=answer["seed"]).text()

    def test_scores_are_those_of_the_library_after_a_bos_token(self, batch):
        rows, model = texts(12), demo_model()
        for row, answer in zip(rows, batch.answers(rows, "--task", "score"), strict=True):
            ids = model.tokenizer.encode(row["text"])
            expected = model.score([model.tokenizer.bos_token_id, *ids])[1:]
            assert answer["tokens"] == ids
            assert answer["logprobs"] == expected
            assert answer["logprob"] == math.fsum(expected)

    def test_without_a_bos_token_the_first_token_has_no_score(self, batch):
        (answer,) = batch.answers([{"text": "The cat sat."}], "--task", "score", "--no-bos")
        assert answer["logprobs"] == demo_model().score("The cat sat.")
        assert answer["logprobs"][0] is None

    @pytest.mark.parametrize("options", [{}, {"bos": False}, {"stride": 100}])
    def test_figures_of_perplexity_are_those_of_the_command_perplexity(self, batch, options):
        rows = [{"text": "The cat sat on the mat. " * n} for n in (1, 5, 90)]
        given = ["--no-bos"] * ("bos" in options) + ["--stride", 100] * ("stride" in options)
        for row, answer in zip(rows, batch.answers(rows, "--task", "perplexity", *given), strict=True):
            expected = perplexity(demo_model(), [("text", row["text"])], **options)["texts"][0]
            assert answer["n_tokens"] == expected["n_tokens"]
            assert answer["n_bytes"] == expected["n_bytes"]
            for name in ("loss", "perplexity", "bits_per_byte"):
                assert answer[name] == pytest.approx(expected[name], rel=1e-6)

    def test_a_text_as_long_as_the_context_is_scored_and_a_longer_one_is_an_error(self, batch):
        n_ctx, model = demo_model().hyperparameters.n_ctx, demo_model()
        word = " cat"
        assert len(model.tokenizer.encode(word * n_ctx)) == n_ctx
        fits, too_long = batch.answers([{"text": word * n} for n in (n_ctx, n_ctx + 1)], "--task", "score")
        assert len(fits["logprobs"]) == n_ctx
        assert too_long["error"] == f"text: {n_ctx + 1} tokens, but the model has {n_ctx} positions (shorten it)"

    def test_special_tokens_are_text_unless_they_are_asked_for(self, batch):
        rows, ends = [{"text": "a<|endoftext|>"}], set(demo_model().tokenizer.eos_token_ids)
        (plain,) = batch.answers(rows, "--task", "score")
        (special,) = batch.answers(rows, "--task", "score", "--special")
        assert not ends & set(plain["tokens"])
        assert special["tokens"][-1] in ends

    def test_fields_of_the_row_come_first_with_copy(self, batch):
        rows = [{"id": "a", "text": "The cat", "source": {"page": 3}}]
        (answer,) = batch.answers(rows, "--task", "perplexity", "--copy")
        assert list(answer)[:4] == ["row", "id", "text", "source"]
        assert answer["source"] == {"page": 3}

    def test_a_copied_field_never_replaces_a_result(self, batch):
        (answer,) = batch.answers([{"text": "The cat", "loss": 1}], "--task", "perplexity", "--copy")
        assert answer["error"] == "loss: the answer has a field with this name (rename the row's)"

    def test_the_names_of_the_fields_can_be_chosen(self, batch):
        (answer,) = batch.answers([{"k": 4, "t": "The"}], "--task", "score", "--field", "t", "--id-field", "k")
        assert answer["k"] == 4


class TestSameBytes:
    @pytest.mark.parametrize("task", ["generate", pytest.param("score", marks=pytest.mark.slow), "perplexity"])
    def test_they_depend_neither_on_the_batch_nor_on_shards_nor_on_processes(self, batch, task):
        rows = texts(40)
        options = ["--task", task] + ["-n", 6] * (task == "generate")
        _, expected, _ = batch.run(rows, *options, "--batch-size", 1, "--processes", 1, "--shard-size", 1000)
        for ways in ((3, 1, 7), (16, 1, 1), (16, 2, 8)):
            names = ("--batch-size", "--processes", "--shard-size")
            _, content, error = batch.run(rows, *options, *(x for pair in zip(names, ways, strict=True) for x in pair))
            assert content == expected, error

    def test_a_row_with_an_id_has_the_same_answer_wherever_it_is(self, batch):
        rows = texts(12)
        there = batch.answers(rows, "--task", "generate", "-n", 5)
        here = batch.answers(rows[::-1], "--task", "generate", "-n", 5)
        for answer in (*there, *here):
            del answer["row"]
        assert there == here[::-1]

    def test_texts_with_the_same_beginning_share_it_without_a_difference(self, batch):
        rows = [{"text": "The cat sat on the mat and the dog sat on the cat. " * 3 + word} for word in "abcdefgh"]
        _, alone, _ = batch.run(rows, "--task", "score", "--batch-size", 1, "--shard-size", 1)
        _, together, _ = batch.run(rows, "--task", "score", "--batch-size", 4)
        for row, answer in zip(rows, map(json.loads, together.splitlines()), strict=True):
            model = demo_model()
            ids = [model.tokenizer.bos_token_id, *model.tokenizer.encode(row["text"])]
            assert answer["logprobs"] == model.score(ids)[1:]
        assert alone == together

    def test_a_row_of_many_windows_does_not_hold_up_the_next_shards(self, batch):
        rows = [{"text": "The cat sat on the mat. " * 120}, *texts(30)]
        options = ("--task", "perplexity", "--stride", 64)
        _, expected, _ = batch.run(rows, *options, "--processes", 1)
        _, content, _ = batch.run(rows, *options, "--processes", 2, "--shard-size", 1)
        assert content == expected


class TestResume:
    def test_only_missing_shards_are_done_again(self, batch, tmp_path):
        rows, out = write_rows(tmp_path / "rows.jsonl", texts(30)), tmp_path / "out"
        options = ("--task", "score", "--shard-size", 10)
        _, expected, _ = batch.run(rows, *options, out=out)
        kept = (out / "shards" / "000000.jsonl").stat()
        (out / "shards" / "000001.jsonl").unlink()
        code, content, error = batch.run(rows, *options, out=out)
        assert (code, content) == (0, expected)
        assert "30 of 30 rows done, 20 of them before" in error
        assert (out / "shards" / "000000.jsonl").stat() == kept

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            (("--seed", 1), "settings.seed is 0, not 1"),
            (("--temperature", 0.5), "settings.sampling.temperature is null, not 0.5"),
            (("-n", 3), "settings.max_tokens is 2, not 3"),
            (("--shard-size", 3), "shard_size is 2, not 3"),
        ],
    )
    def test_a_folder_of_another_job_is_refused(self, batch, tmp_path, options, difference):
        rows, out = write_rows(tmp_path / "rows.jsonl", texts(4)), tmp_path / "out"
        first = ("--task", "generate", "-n", 2, "--shard-size", 2)
        assert batch.run(rows, *first, out=out)[0] == 0
        code, content, error = batch.run(rows, *first, *options, out=out)
        assert (code, content) == (2, None)
        assert f"{out}: it has another job: {difference} (use another folder, or remove it)" in error

    def test_parts_together_are_the_whole(self, batch, tmp_path):
        rows, out = write_rows(tmp_path / "rows.jsonl", texts(25)), tmp_path / "out"
        options = ("--task", "score", "--shard-size", 4)
        _, expected, _ = batch.run(rows, *options)
        code, content, error = batch.run(rows, *options, "--part", "1/2", out=out)
        assert (code, content) == (2, None)
        assert "--merge: 12 rows of other parts are missing (run this again later)" in error
        code, content, _ = batch.run(rows, *options, "--part", "2/2", out=out)
        assert (code, content) == (0, expected)

    def test_a_merged_file_with_other_content_is_kept(self, batch, tmp_path):
        other = tmp_path / "merged1.jsonl"
        other.write_text("important")
        code, content, error = batch.run(texts(3), "--task", "score")
        assert (code, content) == (2, b"important")
        assert "merged1.jsonl: it exists already (--force replaces it)" in error


class TestInput:
    @pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
    def test_a_packed_file_is_unpacked(self, batch, tmp_path, ending, pack):
        plain = write_rows(tmp_path / "rows.jsonl", texts(5))
        packed = tmp_path / f"rows.jsonl{ending}"
        packed.write_bytes(pack(plain.read_bytes()))
        assert batch.run(packed, "--task", "score")[1] == batch.run(plain, "--task", "score")[1]

    def test_a_bad_row_is_answered_with_an_error_and_stops_nothing(self, batch):
        rows = [
            b"{\n",
            b"[1, 2]\n",
            b'{"text": 5}\n',
            b'{"other": "a"}\n',
            b'{"text": "\xff"}\n',
            b'{"text": ""}\n',
            b'{"id": [1], "text": "a"}\n',
            b'{"id": "x", "text": "The cat"}\n',
            b'{"id": "x", "text": "The dog"}\n',
            b"\n  \n",
            b'{"text": "The end"}',
        ]
        answers = batch.answers(rows, "--task", "perplexity")
        found = [answer.get("error", answer.get("perplexity")) for answer in answers]
        assert [answer["row"] for answer in answers] == list(range(10))
        assert found[0].startswith("not valid JSON: ")
        assert found[1] == "got [1, 2], expected a JSON object"
        assert found[2] == "text: got 5, expected text"
        assert found[3] == "text: the row has no such field, expected text"
        assert found[4].startswith("not valid JSON: ")
        assert found[5] == "text: no token to score (use a longer text)"
        assert found[6] == "id: got [1], expected text or a whole number"
        assert isinstance(found[7], float)
        assert found[8] == "id: row 7 has the same, 'x'"
        assert isinstance(found[9], float)

    def test_parquet_files_and_uris_have_the_answers_of_json_lines(self, batch, tmp_path):
        pyarrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = texts(30)
        _, expected, _ = batch.run(rows, "--task", "score")
        plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.gz"
        packed.write_bytes(gzip.compress(write_rows(plain, rows).read_bytes()))
        table = tmp_path / "rows.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), table, row_group_size=7)
        for source in (table, table.as_uri(), plain.as_uri(), packed.as_uri()):
            assert batch.run(source, "--task", "score")[1] == expected

    def test_values_of_parquet_files_that_json_does_not_have_are_copied_as_text(self, batch, tmp_path):
        pyarrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        row = {"text": "The cat", "day": datetime.date(2019, 2, 14), "code": b"\x01\xff"}
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
        (answer,) = batch.answers(tmp_path / "rows.parquet", "--task", "score", "--copy")
        assert (answer["day"], answer["code"]) == ("2019-02-14", "01ff")

    def test_half_a_surrogate_pair_comes_back_where_it_is_copied(self, batch):
        (answer,) = batch.answers([{"id": "\ud800", "text": "a\udc00"}], "--task", "score", "--copy")
        assert (answer["id"], answer["text"]) == ("\ud800", "a\udc00")

    def test_a_field_that_no_row_has_stops_the_job(self, batch):
        code, _, error = batch.run([{"txt": "a"}], "--task", "score")
        assert code == 2
        assert "no row has a field 'text' (--field names another one)" in error

    def test_an_empty_file_has_no_answers(self, batch):
        assert batch.answers([], "--task", "score") == []

    def test_options_that_a_task_has_no_use_for_are_refused(self, batch):
        for options, name in ((("--task", "score", "-n", 3), "--max-tokens"), (("--field", "a"), "--field")):
            code, _, error = batch.run(texts(1), *options)
            assert code == 2
            assert f"{name}: " in error
            assert "has no use for it (leave it out)" in error


class TestLibrary:
    def test_a_shard_of_rows_is_that_of_the_command(self, batch):
        rows = texts(9)
        assert generate_shard(demo_model(), rows, max_tokens=4, seed=2) == batch.answers(
            rows, "--task", "generate", "-n", 4, "--seed", 2
        )
        assert score_shard(demo_model(), rows) == batch.answers(rows, "--task", "score")

    def test_numbers_of_rows_count_from_the_first_one(self):
        assert [row["row"] for row in score_shard(demo_model(), texts(2), first=40, perplexity=True)] == [40, 41]

    def test_values_of_numpy_are_those_of_python(self):
        rows = [{"id": np.int64(7), "text": np.str_("The cat"), "share": np.float32(math.nan), "is_new": np.True_}]
        (answer,) = score_shard(demo_model(), rows, copy=True)
        (expected,) = score_shard(
            demo_model(), [{"id": 7, "text": "The cat", "share": None, "is_new": True}], copy=True
        )
        assert answer == expected
        assert "error" not in answer

    def test_missing_values_of_pandas_are_missing(self):
        pandas = pytest.importorskip("pandas")
        rows = pandas.DataFrame({"id": [1, 2, 3], "text": ["The cat", None, pandas.NA]}).to_dict("records")
        first, *others = score_shard(demo_model(), [*rows, {"id": 4, "text": math.nan}])
        assert len(first["tokens"]) == 2
        assert [row["error"] for row in others] == ["text: got None, expected text"] * 3

    def test_an_invalid_setting_is_refused(self):
        with pytest.raises(UsageError, match="temperature"):
            generate_shard(demo_model(), [], sampling={"temperature": -1})
        with pytest.raises(UsageError, match="stride"):
            score_shard(demo_model(), [], perplexity=True, stride=0)
        with pytest.raises(UsageError, match=r"no_bos: unknown setting \(did you mean bos\?\)"):
            score_shard(demo_model(), [], no_bos=True)


def test_the_manifest_says_what_the_job_is(batch, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", texts(4))
    batch.answers(rows, "--task", "score", out=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["input"]["n_rows"] == 4
    assert manifest["settings"]["task"] == "score"
    assert set(manifest) == {"format", "gpt2rt", "model", "input", "settings", "shard_size"}
    assert read_rows(tmp_path / "out" / "shards" / "000000.jsonl")[0]["id"] == "r0"
