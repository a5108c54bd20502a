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
import facts
import text
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.modelfile import Hyperparameters, tensor_table

decoders = pytest.importorskip("tokenizers.decoders", reason="tokenizers is not installed")

import prepare  # noqa: E402, it needs tokenizers

TRAIN = pathlib.Path(about.__file__).parent
NUMBER = {**{name: n for n, name in enumerate(facts.NUMBERS)}, **{str(n): n for n in range(21)}}
OPERATION = re.compile(r"(\w+) ?(plus|minus|times|and|take away|\+|-|\*) ?(\w+)")
COMPUTE = {
    **dict.fromkeys(("plus", "and", "+"), lambda a, b: a + b),
    **dict.fromkeys(("minus", "take away", "-"), lambda a, b: a - b),
    **dict.fromkeys(("times", "*"), lambda a, b: a * b),
}
N_DIALOGUES = 3000


@pytest.fixture(scope="module", autouse=True)
def few_dialogues():
    """about.py makes fewer dialogues here, so that the tests take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(about, "N_DIALOGUES", N_DIALOGUES)
        yield


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
def scores(texts, tmp_path_factory):
    """Scores of the group `talk`: its last answers would fit anything, its first dialogues don't fit at all."""
    path = tmp_path_factory.mktemp("scores") / "scores.npz"
    np.savez(path, talk=np.array([-128, -20] * 3 + [-128, 40] * 12 + [-128, 2] * 5, np.int8))
    return path


@pytest.fixture(scope="module")
def work(texts, scores, tmp_path_factory):
    """What prepare.py makes of it."""
    folder = tmp_path_factory.mktemp("work")
    prepare.prepare(texts, folder, held_out=texts / "held_out.jsonl.xz", scores=scores)
    return folder


class TestAbout:
    def test_dialogues_are_the_same_at_each_call(self, dialogues):
        assert list(about.dialogues()) == dialogues
        assert len(dialogues) == about.N_DIALOGUES

    def test_turns_alternate_and_the_bot_has_the_last_word(self, dialogues):
        assert all(len(turns) % 2 == 0 for turns in dialogues)

    def test_every_wording_is_filled(self, dialogues):
        assert not [turn for turns in dialogues for turn in turns if re.search(r"[{}|<>]|^\s*$", turn)]

    def test_an_answer_begins_with_a_capital(self, dialogues):
        assert not [turn for turns in dialogues for turn in turns[1::2] if turn[0] != turn[0].upper()]

    def test_sums_are_right(self, dialogues):
        n_sums = 0
        for turns in dialogues:
            for question, answer in zip(turns[::2], turns[1::2], strict=True):
                match = OPERATION.search(question.lower())
                if match and {match[1], match[3]} <= NUMBER.keys() and not question.lower().startswith("is "):
                    said = [NUMBER[word] for word in re.findall(r"\w+", answer.lower()) if word in NUMBER]
                    assert said[-1] == COMPUTE[match[2]](NUMBER[match[1]], NUMBER[match[3]])
                    n_sums += 1
        assert n_sums > 500

    def test_counting_goes_by_ones_in_one_direction(self, dialogues):
        n_counted = 0
        for answer in itertools.chain.from_iterable(turns[1::2] for turns in dialogues):
            numbers = [NUMBER.get(word) for word in answer.lower().rstrip(".").split(", ")]
            if len(numbers) > 2 and None not in numbers:
                assert {b - a for a, b in itertools.pairwise(numbers)} in ({1}, {-1})
                n_counted += 1
        assert n_counted > 50

    def test_several_thousand_different_things_are_said(self, dialogues):
        assert len({turn for turns in dialogues for turn in turns[::2]}) > 5000

    def test_a_capital_is_its_countrys(self, dialogues):
        capitals = {tuple(row) for row in facts.TABLES["capitals"]["rows"]}
        answers = [turn for turns in dialogues for turn in turns[1::2]]
        named = {match.groups() for turn in answers if (match := re.fullmatch(r"The capital of (.*) is (.*)\.", turn))}
        assert named
        assert named <= capitals

    @pytest.mark.parametrize(
        ("said", "heard"), [("visit my aunt", "visit your aunt"), ("I lost my key", "you lost your key")]
    )
    def test_what_the_user_says_of_himself_is_said_of_the_other(self, said, heard):
        assert about.flipped(said) == heard

    def test_a_second_value_differs_from_the_first(self):
        lists = {"pet": ["cat", "dog"], "poem": ["To my {pet}.", "My {pet} and I."]}
        slots = about.Slots(lists, random.Random(4))
        assert slots["pet"] != slots["pet2"]
        assert slots["pet2"] in slots["poem2"]
        assert slots["pet"] in slots["poem2b"]

    def test_what_it_remembers_was_told(self, dialogues):
        n_names = 0
        for turns in dialogues:
            for i, turn in enumerate(turns):
                if match := re.fullmatch(r"(?:Your name is|You told me that your name is) ([A-Z]\w+)\.", turn):
                    assert match[1].lower() in " ".join(turns[:i:2]).lower()
                    n_names += 1
        assert n_names > 30


class TestText:
    @pytest.mark.parametrize(
        ("turn", "mended"),
        [
            ("hello. how are you? i'm fine", "Hello. How are you? I'm fine."),
            ("i think that i am", "I think that I am."),
            ("An iPhone is what i want", "An iPhone is what I want."),
            ("iPhones are what i want", "iPhones are what I want."),
            ("it’s “so”", 'It\'s "so"'),
            ("what is your name", "What is your name?"),
            ("so , do you like it", "So, do you like it?"),
            ("Dont worry, im fine", "Don't worry, I'm fine."),
            ("wait... what", "Wait... what."),
            ("What a nice day", "What a nice day."),
        ],
    )
    def test_a_turn_gets_capitals_and_punctuation(self, turn, mended):
        assert text.mend(turn) == mended

    @pytest.mark.parametrize("turn", ["My name is [name].", "Hi, User 1!", "I am (your name).", "It is ____ now."])
    def test_a_dialogue_with_a_placeholder_is_left_out(self, turn):
        assert text.clean(["Hello.", turn]) is None
        assert text.clean(["Hello (again).", "[Laughs] Hi."]) is not None

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

    def test_a_vocabulary_has_the_size_that_is_asked_for(self, texts, tmp_path):
        prepare.prepare(texts, tmp_path, n_vocab=300)
        assert len(json.loads((tmp_path / "encoder.json").read_text())) == 300

    def test_answers_with_low_scores_are_read_but_not_learned(self, work):
        tokenizer = read_decoder(work)
        tokens, learned = np.load(work / "talk.tokens.npy"), np.load(work / "talk.learned.npy")
        ends = np.flatnonzero(tokens == tokenizer.token_to_id(text.END_OF_TEXT)) + 1
        found = {}
        for part, is_learned in zip(np.split(tokens, ends)[:-1], np.split(learned, ends)[:-1], strict=True):
            number = int(re.search(r"hello (\d+)", tokenizer.decode(part.tolist()).lower())[1])
            found[number] = tokenizer.decode(part[is_learned].tolist())
        assert all(not found[number] for number in range(3))  # dialogues that don't fit
        assert all("Bot: How are you?" in found[number] for number in range(3, 15))
        assert all("hello" in found[number].lower() and "Bot" not in found[number] for number in range(15, 20))

    def test_scores_of_other_text_are_refused(self, texts, tmp_path):
        np.savez(tmp_path / "scores.npz", talk=np.zeros(7, np.int8))
        with pytest.raises(SystemExit, match=r"scores: got 7 turns, expected 40 \(run score.py again\)"):
            prepare.prepare(texts, tmp_path, scores=tmp_path / "scores.npz")

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

    def test_muon_steps_as_torchs_does(self, torch):
        from muon import Muon

        torch.manual_seed(3)
        ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((64, 16), (16, 64), (64, 16))]
        theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
        begin = [matrix.detach().clone() for matrix in ours]
        optimizers = (
            Muon(ours, lr=0.1, weight_decay=0.1),
            torch.optim.Muon(theirs, lr=0.1, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original"),
        )
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for one, other, was in zip(ours, theirs, begin, strict=True):
            assert (one - other).norm() < 0.05 * (other - was).norm()  # the iteration rounds to bf16

    def test_an_answer_that_owes_much_to_its_message_scores_high(self, torch, model, work):
        import score

        tokenizer = prepare.read_tokenizer(work)
        texts = ["User: a b c\nBot: d e\nUser: f\nBot: g\n"] * 3 + ["User: x y\nBot: z\n"]
        contexts, answers = score.contexts_and_answers(tokenizer, texts)
        assert [context is None for context in contexts] == [True, False, False, False] * 3 + [True, False]
        model = type(model)(model.shape._replace(n_vocab=tokenizer.get_vocab_size(), n_ctx=200)).eval()
        pairs = [(context, answer) for context, answer in zip(contexts, answers, strict=True) if context]
        found = score.log_probabilities(model, *zip(*pairs, strict=True), "cpu")
        for (context, answer), value in zip(pairs, found, strict=True):
            tokens = torch.tensor([context + answer])
            losses = model.losses(tokens[:, :-1], tokens[:, 1:])[0, -len(answer) :]
            assert value == pytest.approx(-losses.sum().item(), rel=1e-4)
        values = score.scores(model, tokenizer, texts, "cpu")
        assert ((values == score.NOT_SCORED) == [context is None for context in contexts]).all()

    def test_turns_that_are_not_learned_are_no_targets(self, torch, work):
        import train

        stage = train.STAGES["chat"]._replace(batch=1024, window=64, shares={"talk": 1.0})
        windows = train.Windows(work, stage, "cpu")
        tokens, targets = windows.sample(0)
        assert tokens.shape == targets.shape == (16, 64)
        is_learned = targets != train.IGNORED
        assert (targets[:, :-1][is_learned[:, :-1]] == tokens[:, 1:][is_learned[:, :-1]]).all()
        assert 0 < is_learned.float().mean() < 1
        assert torch.equal(windows.sample(0)[0], tokens)

    def test_weights_are_averaged(self, torch):
        import export

        averaged = export.averaged({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])}, 0.25)
        assert averaged["w"].tolist() == [1.5, 2.0]

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
        script = [sys.executable, str(TRAIN / "train.py"), str(folder), "broad", "--batch", "1024", "--minutes"]
        shape = ["--n-embd", "32", "--n-head", "2", "--n-layer", "1", "--n-ctx", "64", "--dropout", "0.1"]
        # Here a script's own folder is to be imported from.
        options = {"env": {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}, "text": True}

        def progress():
            return torch.load(folder / "state.pt", weights_only=True)["progress"]

        subprocess.run([*script, "0.2", *shape], check=True, **options)
        stage, seconds, step = progress()
        assert stage == "broad"
        assert seconds >= 12
        with subprocess.Popen([*script, "600"], stdout=subprocess.PIPE, **options) as run:
            assert "parameters" in run.stdout.readline()
            assert run.stdout.readline().startswith(f"broad from step {step:,} on")
            run.send_signal(signal.SIGINT)
        assert run.returncode == 0
        assert progress()[1] >= seconds
        *_, loss, held_out = (folder / "curve.csv").read_text().splitlines()[0].split(",")
        assert float(loss) < np.log(4096)
        assert float(held_out) > 0
