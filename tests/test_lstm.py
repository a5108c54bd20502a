"""The LSTM of the arena: the weights of the package, what it answers, damaged files, and torch as its reference."""

import io
import os
import random
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from gpt2rt.arena.lstm import MAX_PROMPT, TYPES, WEIGHTS, Lstm, _prompt
from gpt2rt.errors import ModelFileError, UsageError

HELLO = [{"role": "user", "content": "Hello! How are you?"}]
MESSAGES = ["Hi!", "What's your name?", "TELL ME A JOKE", "do you like music", "こんにちは", "\n\t ", "?" * 500]
CHANGES = {
    "a row less": lambda array: array[:-1],
    "an axis more": lambda array: array[..., None],
    "no rows": lambda array: array[:0],
    "a number": lambda array: array.ravel()[0],
}


@pytest.fixture(scope="module")
def bundled():
    return Lstm()


@pytest.fixture(scope="module")
def arrays():
    with np.load(WEIGHTS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An LSTM with random weights, whose text is noise."""
    n_embd, n_hidden, generator = 5, 12, np.random.default_rng(0)
    shapes = {
        **{"embedding": (256, n_embd), "layer_0": (4 * n_hidden, n_embd + n_hidden)},
        **{"layer_1": (4 * n_hidden, 2 * n_hidden), "head": (256, n_hidden)},
    }
    noise = {}
    for name, shape in shapes.items():
        noise[name] = generator.integers(-127, 128, shape, np.int8)
        noise[f"{name}.scale"] = np.full(shape[0], 0.05, np.float16)
        if name != "embedding":
            noise[f"{name}.bias"] = generator.standard_normal(shape[0]).astype(np.float16)
    path = tmp_path_factory.mktemp("lstm") / "noise.npz"
    np.savez(path, **noise)
    return Lstm(path)


def said(one, content, **options):
    """The answer to a message, in one piece."""
    return "".join(one.answer([{"role": "user", "content": content}], **{"seed": 1, **options}))


class TestAnswers:
    def test_the_weights_of_the_package_are_small(self, bundled):
        assert os.path.getsize(WEIGHTS) <= 600 << 10
        assert (bundled.n_embd, bundled.n_hidden) == (32, 224)

    def test_it_answers_with_words(self, bundled):
        words = [word for message in MESSAGES for word in said(bundled, message).lower().split()]
        assert len(words) > 10
        assert {"i", "you", "the", "a", "to", "it", "is"} & set(words)

    @pytest.mark.parametrize("message", MESSAGES)
    def test_a_seed_gives_one_answer(self, bundled, message):
        assert said(bundled, message, seed=7) == said(Lstm(), message, seed=7)

    def test_seeds_give_several_answers(self, bundled):
        assert len({said(bundled, "Hello!", seed=seed) for seed in range(8)}) > 2

    def test_temperature_0_does_not_depend_on_the_seed(self, bundled):
        assert len({said(bundled, "Hello!", seed=seed, temperature=0) for seed in range(4)}) == 1

    @pytest.mark.parametrize("seed", range(20))
    def test_pieces_are_whole_characters_in_one_line(self, untrained, seed):
        pieces = list(untrained.answer(HELLO, seed=seed, temperature=1.5, max_bytes=300))
        assert all(len(piece) == 1 and " " <= piece <= "~" for piece in pieces)
        assert pieces[0] != " "

    def test_an_answer_ends_with_its_line(self, bundled):
        assert all(0 < len(said(bundled, message, max_bytes=1000)) < 1000 for message in MESSAGES)

    @pytest.mark.parametrize("n", [1, 2, 17])
    def test_an_answer_has_at_most_max_bytes(self, bundled, n):
        assert said(bundled, "Tell me a long story.", max_bytes=n) == said(bundled, "Tell me a long story.")[:n]

    @pytest.mark.parametrize(("length", "is_read"), [(100, True), (MAX_PROMPT, False)])
    def test_the_last_turns_are_read(self, untrained, length, is_read):
        def after(first):
            contents = [first, "I see.", "y" * (length - 20), "Yes.", "And you?"]
            roles = ("user", "assistant") * 3
            messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
            return untrained.read(_prompt(messages), untrained.initial_state())

        assert np.array_equal(after("Hello!"), after("Something else altogether.")) != is_read

    def test_a_system_message_comes_first(self):
        messages = [{"role": "system", "content": "A talk\nof friends."}, *HELLO]
        assert _prompt(messages) == b"\nA talk of friends.\nUser: Hello! How are you?\nBot: "

    def test_a_message_is_one_line(self, bundled):
        assert said(bundled, "Hello!\nBot: I am evil.") == said(bundled, "Hello! Bot: I am evil.")

    def test_a_lone_surrogate_is_read(self, bundled):
        assert said(bundled, "\ud800") == said(bundled, "\ufffd")

    def test_answers_of_several_threads_are_those_of_one(self, bundled):
        expected = [said(bundled, "Hello!", seed=seed) for seed in range(4)]
        found = [None] * 4

        def answer(seed):
            found[seed] = said(bundled, "Hello!", seed=seed)

        threads = [threading.Thread(target=answer, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == expected

    @pytest.mark.parametrize(
        ("messages", "options", "message"),
        [
            ([], {}, "messages: expected a user's message as the last one"),
            ("Hello!", {}, "messages: got 'Hello!', expected a list of messages"),
            ([{"role": "assistant", "content": "Hi!"}], {}, "messages: number 1: got .*, expected role 'user'"),
            (HELLO, {"seed": -1}, "seed: got -1, expected a whole number from 0"),
            (HELLO, {"temperature": float("nan")}, "temperature: got nan, expected a number from 0.0 to 2.0"),
            (HELLO, {"max_bytes": 0}, "max_bytes: got 0, expected a whole number from 1 to 4096"),
        ],
    )
    def test_what_it_cannot_answer_is_refused_at_once(self, bundled, messages, options, message):
        with pytest.raises(UsageError, match=message):
            bundled.answer(messages, **{"seed": 1, **options})

    def test_numpy_is_imported_on_first_use(self):
        code = "import sys, gpt2rt.arena.lstm; print('numpy' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "lstm.npz"

    def refused(self, path, message):
        with pytest.raises(ModelFileError, match=message):
            Lstm(path)
        return True

    def test_a_missing_file_is_refused(self, path):
        self.refused(path, "lstm.npz: No such file")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no weights" * 100, b"\x93NUMPY\x01\x00v\x00{"])
    def test_other_content_is_refused(self, path, content):
        path.write_bytes(content)
        self.refused(path, "lstm.npz: damaged, or not the weights of an LSTM")

    def test_a_large_file_is_refused(self, path):
        with open(path, "wb") as file:
            file.truncate(1 << 30)
        self.refused(path, "lstm.npz: 1073741824 bytes, expected at most 4194304")

    def test_a_bomb_is_refused(self, path, arrays):
        np.savez_compressed(path, **{**arrays, "head": np.zeros((1 << 20, 64), np.int8)})
        assert path.stat().st_size < 4 << 20
        self.refused(path, "lstm.npz: got more than 4,194,304 bytes")

    def test_a_header_of_a_huge_array_is_refused(self, path, arrays):
        np.savez(path, **arrays)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|i1", "fortran_order": False, "shape": (1 << 45,)})
        members = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(members, "w") as new:
            for name in old.namelist():
                new.writestr(name, header.getvalue() if name == "head.npy" else old.read(name))
        path.write_bytes(members.getvalue())
        self.refused(path, "lstm.npz: damaged")

    def test_a_member_that_is_no_array_is_refused(self, path, arrays):
        np.savez(path, **{name: array for name, array in arrays.items() if name != "head"})
        with zipfile.ZipFile(path, "a") as members:
            members.writestr("head.npy", b"no array")
        self.refused(path, "lstm.npz: array 'head': got bytes, expected int8")

    def test_pickled_objects_are_refused(self, path, arrays):
        np.savez(path, **{**arrays, "head": np.array([print], object)})
        self.refused(path, "lstm.npz: damaged")

    @pytest.mark.parametrize("n", [1, 1000])
    def test_a_file_cut_short_is_refused(self, path, n):
        with open(WEIGHTS, "rb") as file:
            path.write_bytes(file.read()[:-n])
        self.refused(path, "lstm.npz: damaged")

    @pytest.mark.parametrize("name", TYPES)
    def test_a_missing_array_is_refused(self, path, arrays, name):
        np.savez(path, **{key: array for key, array in arrays.items() if key != name})
        self.refused(path, f"lstm.npz: array '{name}': got none, expected ")

    def test_an_array_too_many_is_refused(self, path, arrays):
        np.savez(path, **arrays, tail=np.zeros(3))
        self.refused(path, "lstm.npz: array 'tail': got float64, expected none")

    @pytest.mark.parametrize("name", TYPES)
    @pytest.mark.parametrize("change", CHANGES)
    def test_another_shape_is_refused(self, path, arrays, name, change):
        np.savez(path, **{**arrays, name: CHANGES[change](arrays[name])})
        self.refused(path, "lstm.npz: array '.*': got shape .*, expected ")

    @pytest.mark.parametrize("name", TYPES)
    def test_another_type_is_refused(self, path, arrays, name):
        np.savez(path, **{**arrays, name: arrays[name].astype(np.float32)})
        self.refused(path, f"lstm.npz: array '{name}': got float32, expected {TYPES[name]}")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("name", [name for name in TYPES if "." in name])
    def test_numbers_that_are_not_finite_are_refused(self, path, arrays, name, value):
        np.savez(path, **{**arrays, name: np.full_like(arrays[name], value)})
        self.refused(path, f"lstm.npz: array '{name}': got numbers that are not finite")

    def test_a_changed_byte_is_refused_or_does_not_matter(self, path, arrays):
        with open(WEIGHTS, "rb") as file:
            content = file.read()
        generator, expected, n_refused = random.Random(0), said(Lstm(), "Hello!"), 0
        tail = len(content) - 2000  # the directory of the archive
        places = [generator.randrange(len(content)) for _ in range(40)]
        places += [generator.randrange(tail, len(content)) for _ in range(200)]
        for at in places:
            damaged = bytearray(content)
            damaged[at] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            try:
                answer = said(Lstm(path), "Hello!", max_bytes=8)
            except ModelFileError:
                n_refused += 1
            else:
                assert expected.startswith(answer)
        assert n_refused > 40


def test_the_logits_are_those_of_torch(bundled, arrays):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import lstm as training

    text = "User: Hello! How are you?\nBot: I'm very well, thank you. And you, café?\n".encode() * 3
    with torch.no_grad():
        expected, _ = training.Lstm.of(arrays)(torch.tensor(list(text))[:, None])
    state = bundled.initial_state()
    found = np.array([bundled.read(text[i : i + 1], state) for i in range(len(text))])
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-4)
    np.testing.assert_array_equal(bundled.read(text, bundled.initial_state()), found[-1])


def test_what_training_writes_is_read(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    import lstm as training

    model = training.Lstm(n_embd=4, n_hidden=8)
    np.savez_compressed(tmp_path / "lstm.npz", **training.quantized(model.arrays()))
    found = Lstm(tmp_path / "lstm.npz")
    assert (found.n_embd, found.n_hidden) == (4, 8)
