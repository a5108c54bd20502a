"""The recipe of the bundled model, train/: its text, its vocabulary, its model, and the way into a checkpoint."""

import itertools
import json
import lzma
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import reference
from checkpoints import write_checkpoint

import about
import text
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.modelfile import Hyperparameters, tensor_table

decoders = pytest.importorskip("tokenizers.decoders", reason="tokenizers is not installed")

import prepare  # noqa: E402, it needs tokenizers

TRAIN = pathlib.Path(about.__file__).parent
NUMBER = {**{name: n for n, name in enumerate(about.NUMBERS)}, **{str(n): n for n in range(21)}}
OPERATION = re.compile(r"(\w+) (plus|minus|\+|-) (\w+)")


@pytest.fixture(scope="module")
def dialogues():
    return list(about.dialogues())


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder like that of prepare.py's text, with little in each file, and what is held out."""
    folder = tmp_path_factory.mktemp("text")
    for name in itertools.chain(*text.GROUPS.values()):
        (folder / name).parent.mkdir(exist_ok=True)
        if name.endswith(".jsonl.xz"):
            content = "".join(json.dumps({"turns": [f"hello {n}", "how are you? i'm fine"]}) + "\n" for n in range(20))
        else:
            content = f"Once there was a king.\n\nHe was old.\n{text.END_OF_TEXT}\nThe fox and the grapes.\n" * 10
        (folder / name).write_bytes(lzma.compress(content.encode()))
    (folder / "held_out.jsonl.xz").write_bytes(lzma.compress(json.dumps({"turns": ["hi", "Hello! " * 300]}).encode()))
    return folder


@pytest.fixture(scope="module")
def work(texts, tmp_path_factory):
    """What prepare.py makes of it."""
    folder = tmp_path_factory.mktemp("work")
    prepare.prepare(texts, folder, held_out=texts / "held_out.jsonl.xz")
    return folder


class TestAbout:
    def test_dialogues_are_the_same_at_each_call(self, dialogues):
        assert list(about.dialogues()) == dialogues
        assert len(dialogues) == about.N_DIALOGUES

    def test_turns_alternate_and_the_bot_has_the_last_word(self, dialogues):
        assert all(len(turns) % 2 == 0 for turns in dialogues)

    def test_every_wording_is_filled(self, dialogues):
        assert not [turn for turns in dialogues for turn in turns if re.search(r"[{}|*]|^\s*$", turn)]

    def test_an_answer_begins_with_a_capital(self, dialogues):
        assert not [turn for turns in dialogues for turn in turns[1::2] if turn[0] != turn[0].upper()]

    def test_sums_are_right(self, dialogues):
        n_sums = 0
        for turns in dialogues:
            for question, answer in zip(turns[::2], turns[1::2], strict=True):
                if match := OPERATION.search(question):
                    a, sign, b = NUMBER[match[1]], match[2], NUMBER[match[3]]
                    said = re.sub(r"\W", " ", answer.lower()).split()[-1]
                    assert NUMBER[said] == (a + b if sign in ("plus", "+") else a - b)
                    n_sums += 1
        assert n_sums > 100

    def test_what_it_remembers_was_told(self, dialogues):
        n_names = 0
        for turns in dialogues:
            for i, turn in enumerate(turns):
                if match := re.fullmatch(r"(?:Your name is|You are|Of course, you're) ([A-Z]\w+)\.", turn):
                    assert match[1].lower() in " ".join(turns[:i:2]).lower()
                    n_names += 1
        assert n_names > 100


class TestText:
    @pytest.mark.parametrize(
        ("turn", "mended"),
        [
            ("hello. how are you? i'm fine", "Hello. How are you? I'm fine"),
            ("i think that i am", "I think that I am"),
            ("An iPhone is what i want", "An iPhone is what i want"),  # typed with capitals: theirs
            ("it’s “so”", 'It\'s "so"'),
        ],
    )
    def test_a_turn_without_capitals_gets_them(self, turn, mended):
        assert text.mend(turn) == mended

    def test_dialogues_of_one_source_can_be_told_apart(self, tmp_path):
        lines = [json.dumps({"source": name, "turns": [name, "yes"]}) for name in ("a", "b", "a")]
        (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
        assert list(text.dialogues(tmp_path / "d.jsonl.xz", source="b")) == ["User: b\nBot: yes\n"]
        assert len(list(text.dialogues(tmp_path / "d.jsonl.xz"))) == 3

    def test_a_turn_is_one_line(self):
        assert text.dialogue(["a\nb", "c"]) == "User: a b\nBot: c\n"


def read_decoder(work):
    """The tokenizer of `work`, for the way back."""
    tokenizer = prepare.read_tokenizer(work)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class TestPrepare:
    def test_the_vocabulary_is_one_of_gpt2(self, work):
        vocabulary = Vocabulary.read(work / "encoder.json", work / "vocab.bpe")
        assert 257 < vocabulary.n_vocab <= prepare.N_VOCAB
        assert prepare.read_tokenizer(work).token_to_id(text.END_OF_TEXT) == vocabulary.n_vocab - 1

    @pytest.mark.parametrize("group", text.GROUPS)
    def test_tokens_are_the_documents(self, group, texts, work):
        tokenizer = read_decoder(work)
        tokens = np.load(work / f"{group}.tokens.npy")
        ends = np.flatnonzero(tokens == tokenizer.token_to_id(text.END_OF_TEXT))
        documents = [tokenizer.decode(part[: -1 if part.size else 0].tolist()) for part in np.split(tokens, ends + 1)]
        assert sorted(documents[:-1]) == sorted(text.documents(texts, group))
        assert not documents[-1]  # nothing behind the last end

    def test_windows_begin_where_documents_or_turns_do(self, work):
        tokenizer = read_decoder(work)
        tokens, starts = np.load(work / "about.tokens.npy"), np.load(work / "about.starts.npy")
        assert all(tokenizer.decode(tokens[start : start + 8].tolist()).startswith("User:") for start in starts[:500])
        assert len(starts) >= about.N_DIALOGUES

    def test_a_given_vocabulary_is_taken(self, texts, work, tmp_path):
        prepare.prepare(texts, tmp_path, vocabulary=work)
        assert (tmp_path / "encoder.json").read_bytes() == (work / "encoder.json").read_bytes()
        assert np.array_equal(np.load(tmp_path / "talk.tokens.npy"), np.load(work / "talk.tokens.npy"))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.slow
class TestModel:
    @pytest.fixture
    def model(self, torch):
        from gpt2 import Gpt2

        torch.manual_seed(1)
        model = Gpt2(Hyperparameters(n_vocab=300, n_ctx=20, n_embd=32, n_head=2, n_layer=2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    @staticmethod
    def tensors(model):
        """As `Gpt2.load` takes them, and as a checkpoint has them."""
        import export

        return {name.removeprefix("model/"): array for name, array in export.arrays(model).items()}

    @staticmethod
    def loss(torch, model, tokens):
        tokens = torch.tensor([tokens])
        with torch.no_grad():
            return model(tokens[:, :-1], tokens[:, 1:]).item()

    def test_its_loss_is_the_references(self, torch, model):
        tokens = [random.Random(2).randrange(300) for _ in range(21)]
        logits = reference.logits(self.tensors(model), 2, tokens[:-1])
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = -np.mean([row[token] for row, token in zip(logits, tokens[1:], strict=True)])
        assert self.loss(torch, model, tokens) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("n_layer", [2, 3, 5])
    def test_made_deeper_it_says_the_same(self, n_layer, torch, model):
        from gpt2 import Gpt2

        deeper = Gpt2(model.shape._replace(n_layer=n_layer))
        tensors = self.tensors(model)
        deeper.load({name: array[0] if array.ndim == 3 else array for name, array in tensors.items()})
        tokens = [random.Random(3).randrange(300) for _ in range(21)]
        assert self.loss(torch, deeper, tokens) == pytest.approx(self.loss(torch, model, tokens), rel=1e-5)

    def test_weights_of_another_vocabulary_are_refused(self, torch, work, tmp_path):
        import train

        write_checkpoint(tmp_path / "other")
        with pytest.raises(SystemExit, match=r"other.*: has 301 tokens, expected the \d+ of .*--vocabulary"):
            train.initial_model(work, tmp_path / "other", {})

    def test_what_is_exported_is_read_back(self, model, work, tmp_path):
        pytest.importorskip("tensorflow", reason="tensorflow is not installed")
        import export

        n_vocab = len(json.loads((work / "encoder.json").read_text()))
        model = type(model)(model.shape._replace(n_vocab=n_vocab))
        export.write(model, work, tmp_path / "model")
        checkpoint = TensorFlowCheckpoint(tmp_path / "model")
        tensors = self.tensors(model)
        for tensor in tensor_table(checkpoint.hyperparameters, "f32", 0):
            expected = tensors[tensor.name]
            assert np.array_equal(checkpoint.tensor(tensor.name), expected[0] if expected.ndim == 3 else expected)
        assert checkpoint.hyperparameters == model.shape

    def test_a_run_learns_stops_and_goes_on(self, torch, work, tmp_path):
        folder = shutil.copytree(work, tmp_path / "work")
        script = [sys.executable, str(TRAIN / "train.py"), str(folder), "broad", "--minutes"]
        shape = ["--n-embd", "32", "--n-head", "2", "--n-layer", "1"]
        # Here a script's own folder is to be imported from.
        options = {"env": {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}, "text": True}

        def progress():
            return torch.load(folder / "state.pt", weights_only=True)["progress"]

        subprocess.run([*script, "0.2", *shape], check=True, **options)
        stage, seconds, step = progress()
        assert stage == "broad"
        assert seconds >= 12
        with subprocess.Popen([*script, "600"], stdout=subprocess.PIPE, **options) as run:
            assert run.stdout.readline().startswith(f"broad from step {step:,} on")
            run.send_signal(signal.SIGINT)
        assert run.returncode == 0
        assert progress()[1] >= seconds
        *_, loss, held_out = (folder / "curve.csv").read_text().splitlines()[0].split(",")
        assert float(loss) < np.log(4096)
        assert float(held_out) > 0
