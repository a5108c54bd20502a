"""Lstm: a contestant from the time before transformers, a network of two layers that predicts bytes."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

from gpt2rt._chat import clean
from gpt2rt.arguments import real_number, whole_number
from gpt2rt.errors import ModelFileError
from gpt2rt.messages import turns_of
from gpt2rt.regular_file import read_regular
from gpt2rt.sampling import MAX_SEED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np

    from gpt2rt.modelfile.reader import Path

WEIGHTS = os.path.join(os.path.dirname(__file__), "lstm.npz")  # written by train/lstm.py
MAX_FILE = 4 << 20  # bytes, of the file and of all arrays together
MAX_PROMPT = 2048  # bytes of earlier turns that are read
MAX_BYTES = 4096  # of an answer

N_BYTES = 256
NEWLINE = ord("\n")
SPEAKABLE = (NEWLINE, *range(ord(" "), ord("~") + 1))  # bytes of an answer: ASCII, so that each is a character

# V: N_BYTES. E: n_embd. H: n_hidden. The columns of a layer are those of its input, then of its previous output; its
# rows are the gates i, f, g and o. A matrix is stored as int8, with a scale for each row.
MATRICES = ("embedding", "layer_0", "layer_1", "head")  # (V, E), (4H, E + H), (4H, 2H), (V, H)
TYPES = {
    **dict.fromkeys(MATRICES, "int8"),
    **{f"{name}.scale": "float16" for name in MATRICES},
    **{f"{name}.bias": "float16" for name in ("layer_0", "layer_1", "head")},
}
# What zipfile and numpy raise for files that are damaged.
DAMAGE = (
    *(ValueError, EOFError, KeyError, RuntimeError, MemoryError, OverflowError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class Lstm:
    """A byte-level LSTM that answers as the turns of its training text do. It may be shared by threads.

    Attributes:
        n_embd, n_hidden: its sizes.
    """

    def __init__(self, path: Path = WEIGHTS):
        """Read a file of weights. Raises ModelFileError: it can't be read, or is damaged."""
        import numpy as np

        arrays = _read(path)
        self.n_embd, self.n_hidden = arrays["embedding"].shape[1], arrays["head"].shape[1]
        matrices = {
            name: arrays[name].astype(np.float32) * arrays[f"{name}.scale"].astype(np.float32)[:, None]
            for name in MATRICES
        }
        biases = [arrays[f"{name}.bias"].astype(np.float32) for name in ("layer_0", "layer_1", "head")]
        from_input, self._recurrent = np.split(matrices["layer_0"], [self.n_embd], axis=1)
        self._first = matrices["embedding"] @ from_input.T + biases[0]  # (V, 4H): what a byte adds to the gates
        self._recurrent = np.ascontiguousarray(self._recurrent)  # (4H, H)
        self._second, self._second_bias = matrices["layer_1"], biases[1]  # (4H, 2H), (4H)
        self._head, self._head_bias = matrices["head"], biases[2]  # (V, H), (V)

    def initial_state(self) -> np.ndarray:
        """Return the state before any text: h and c of each layer, f32 (2, 2, H)."""
        import numpy as np

        return np.zeros((2, 2, self.n_hidden), np.float32)

    def read(self, text: bytes, state: np.ndarray) -> np.ndarray:
        """Return the logits after a text, f32 (V), and change the state to that after it. The text is not empty."""
        import numpy as np

        for byte in text:
            _step(self._first[byte] + _product(self._recurrent, state[0, 0]), state[0])
            _step(self._second_bias + _product(self._second, np.concatenate((state[0, 0], state[1, 0]))), state[1])
        return _product(self._head, state[1, 0]) + self._head_bias

    def answer(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        seed: int,
        temperature: float = 0.5,
        max_bytes: int = 200,
    ) -> Iterator[str]:
        """Answer the last message of a conversation.

        It is read after as many earlier turns as have no more than MAX_PROMPT bytes.

        Args:
            messages: as for `Model.chat`: dicts {"role": "system" | "user" | "assistant", "content": text}; the last
                one is the user's. A system message may come first.
            seed: an answer is the same for the same seed, on the same machine.
            temperature: 0 chooses the most likely byte each time.
            max_bytes: of the answer, which may also end before, with its line.

        Returns:
            An iterator of characters.

        Raises:
            UsageError: the order of the messages or an argument is invalid.
        """
        prompt = _prompt(messages)
        seed = whole_number("seed", seed, 0, MAX_SEED)
        temperature = real_number("temperature", temperature, 0.0, 2.0)
        max_bytes = whole_number("max_bytes", max_bytes, 1, MAX_BYTES)
        return self._characters(prompt, seed, temperature, max_bytes)

    def _characters(self, prompt: bytes, seed: int, temperature: float, max_bytes: int) -> Iterator[str]:
        import numpy as np

        # Without the prompt, one seed would begin its answers to most messages with the same words.
        generator = np.random.default_rng((seed, zlib.crc32(prompt)))
        speakable, state = np.array(SPEAKABLE), self.initial_state()
        logits = self.read(prompt, state)[speakable]
        logits[:2] = -np.inf  # an answer begins with neither a newline nor a space
        for _ in range(max_bytes):
            byte = int(speakable[_sampled(logits, temperature, generator)])
            if byte == NEWLINE:
                return
            yield chr(byte)
            logits = self.read(bytes((byte,)), state)[speakable]


def _product(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return matrix (m, n) times vector (n)."""
    import numpy as np

    product: np.ndarray = np.einsum("mn,n->m", matrix, vector)  # not BLAS, which spreads it over busy cores
    return product


def _step(gates: np.ndarray, state: np.ndarray) -> None:
    """Change the state of a layer, h and c, (2, H), by its gates before their activations, (4H)."""
    import numpy as np

    n = state.shape[1]
    sigmoid = 0.5 + 0.5 * np.tanh(0.5 * gates)
    state[1] = sigmoid[n : 2 * n] * state[1] + sigmoid[:n] * np.tanh(gates[2 * n : 3 * n])
    state[0] = sigmoid[3 * n :] * np.tanh(state[1])


def _sampled(logits: np.ndarray, temperature: float, generator: np.random.Generator) -> int:
    """Return an index, sampled from the softmax of logits (n) at a temperature."""
    import numpy as np

    if temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, generator.random() * sums[-1], side="right"))


def _prompt(messages: Sequence[Mapping[str, str]]) -> bytes:
    """Return the text that the last message ends, and `Bot: ` after it. Raises UsageError."""
    opening, talk = turns_of(messages)
    *turns, last = (_line(f"{('User', 'Bot')[i % 2]}: {text}") for i, text in enumerate(talk))
    kept, room = last, MAX_PROMPT
    for user, bot in zip(turns[-2::-2], turns[::-2], strict=True):
        room -= len(user) + len(bot)
        if room < 0:
            break
        kept = user + bot + kept
    # An empty line separates the dialogues of the training text.
    return b"".join((b"\n", _line(opening) if opening else b"", kept, b"Bot: "))


def _line(text: str) -> bytes:
    """Return a text in one line; a lone surrogate becomes U+FFFD, as for the tokenizer."""
    content = clean(text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return f"{content}\n".encode()


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of weights, {name: array}. Raises ModelFileError."""
    import numpy as np

    name = os.fsdecode(path)
    try:
        content = read_regular(path, MAX_FILE)
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > MAX_FILE:
            raise ModelFileError(f"{name}: got more than {MAX_FILE:,} bytes, expected the weights of a small LSTM")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except OSError as error:
        raise ModelFileError(f"{name}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise ModelFileError(f"{name}: damaged, or not the weights of an LSTM ({error!s:.120})") from error
    types = {key: array.dtype.name if isinstance(array, np.ndarray) else "bytes" for key, array in arrays.items()}
    if types != TYPES:
        wrong = min(types.items() ^ TYPES.items())[0]
        raise ModelFileError(
            f"{name}: array {wrong!r:.40}: got {types.get(wrong, 'none')}, expected {TYPES.get(wrong, 'none')}"
        )
    n_embd, n_hidden = (arrays[key].shape[-1] if arrays[key].ndim else 0 for key in ("embedding", "head"))
    rows = {"embedding": N_BYTES, "layer_0": 4 * n_hidden, "layer_1": 4 * n_hidden, "head": N_BYTES}
    columns = {"embedding": n_embd, "layer_0": n_embd + n_hidden, "layer_1": 2 * n_hidden, "head": n_hidden}
    for key, array in arrays.items():
        matrix = key.partition(".")[0]
        shape = (rows[matrix], columns[matrix]) if key == matrix else (rows[matrix],)
        if array.shape != shape or min(n_embd, n_hidden) == 0:
            raise ModelFileError(f"{name}: array {key!r}: got shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise ModelFileError(f"{name}: array {key!r}: got numbers that are not finite (the file is damaged)")
    return arrays
