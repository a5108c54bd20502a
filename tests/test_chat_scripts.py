"""Scripts of bench/ about how well a model chats: each runs as a user starts it, on small data."""

import json
import lzma
import re

import pytest
from demo import DEMO, demo_model
from scripts import ROOT, cells, run


@pytest.fixture(scope="module")
def needs_demo():
    demo_model()


@pytest.mark.usefixtures("needs_demo")
class TestChat:
    def test_the_true_answers_that_it_gives_itself_have_an_f1_of_1(self, tmp_path):
        run("bench/chat_quality.py", DEMO, "--chats", 1, "--transcripts", 1, tmp_path / "transcripts.txt")
        [greedy] = re.findall(
            r"=== chat 1, greedy, nothing else\nUser: (.*)\nBot: (.*)\n",
            (tmp_path / "transcripts.txt").read_text("utf-8"),
        )
        assert greedy[0] == (ROOT / "bench" / "chats.txt").read_text().split(" | ")[0]
        dialogue = tmp_path / "dialogue.jsonl.xz"
        dialogue.write_bytes(lzma.compress(json.dumps({"turns": greedy}).encode()))
        options = ["--chats", 1, "--seeds", 2, "--threads", 1, "--dialogues", dialogue, "--json"]
        found = json.loads(run("bench/chat_quality.py", DEMO, *options))
        assert found["greedy, nothing else"]["F1"] == [1.0, None]
        assert found["sampling, nothing else"]["F1"][1] is not None


class TestBlind:
    """Two models are judged on sheets that don't say which is which."""

    @pytest.fixture
    def files(self, tmp_path):
        chats = (ROOT / "bench" / "chats.txt").read_text(encoding="utf-8").splitlines()
        paths = []
        for name in ("first", "second"):
            lines = [
                json.dumps({"messages": chat.split(" | "), "answers": [f"{name}, {i}" for i in range(4)]})
                for chat in chats
            ]
            paths.append(tmp_path / f"{name}.jsonl")
            paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
        return paths

    def test_a_reader_who_prefers_one_model_is_counted_for_it(self, files, tmp_path):
        sheet = run("bench/blind.py", "sheet", *files)
        chats = sheet.split("=== ")[1:]
        assert len(chats) == 50
        lines, is_a = [], []
        for i, chat in enumerate(chats, 1):
            a, b = (re.search(rf"^  {side}: (first|second), 0$", chat, re.MULTILINE)[1] for side in "AB")
            assert {a, b} == {"first", "second"}
            is_a.append(a == "first")
            choice = "=" if i == 1 else "-" if i == 2 else "A" if is_a[-1] else "B"
            lines.append(f"{i} {choice} {'1110' if is_a[-1] else '1000'} {'1000' if is_a[-1] else '1110'}")
        assert 10 < sum(is_a) < 40
        (tmp_path / "judgments.txt").write_text("\n".join(lines), encoding="utf-8")
        table = cells(run("bench/blind.py", "score", *files, tmp_path / "judgments.txt"))
        assert table["better, of 50 chats"] == ["48", "0"]
        assert table["answers that fit, of 200"] == ["150 (75%)", "50 (25%)"]

    @pytest.mark.parametrize("line", ["51 A 1111 0000", "1 C 1111 0000", "1 A 111 0000", "1 A 1111", "A"])
    def test_a_judgment_of_no_chat_is_refused(self, files, tmp_path, line):
        (tmp_path / "judgments.txt").write_text(f"1 = 1111 1111\n{line}\n", encoding="utf-8")
        error = run("bench/blind.py", "score", *files, tmp_path / "judgments.txt", status=1)
        assert "judgments.txt, line 2: got " in error

    @pytest.mark.slow
    @pytest.mark.usefixtures("needs_demo")
    def test_answers_are_those_of_a_model_of_llm(self):
        pytest.importorskip("llm")
        lines = [json.loads(line) for line in run("bench/blind.py", "answers", "gpt2rt", "--chats", 2).splitlines()]
        assert [len(line["answers"]) for line in lines] == [4, 4]
        assert all(answer and not answer.startswith("(no answer") for line in lines for answer in line["answers"])


@pytest.mark.usefixtures("needs_demo")
def test_answers_with_a_listed_word_are_counted(tmp_path):
    (tmp_path / "words.txt").write_text("i\nyou\n", encoding="utf-8")
    options = [tmp_path / "words.txt", DEMO, "--messages", 3, "--seeds", 2]
    found = json.loads(run("bench/offensive.py", *options, "--json"))
    assert found["answers"] == 6
    assert 0 < found["with a word"] <= 6
    (tmp_path / "words.txt").write_text("zyzzyva\n", encoding="utf-8")
    assert run("bench/offensive.py", *options).splitlines()[:2] == ["answers: 6", "with a word: 0"]
