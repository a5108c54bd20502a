"""Trains the LSTM of the arena on what prepare.py made, on a CPU, and writes its weights.

    python train/lstm.py WORK gpt2rt/arena/lstm.npz --steps 8192

The LSTM reads and predicts bytes, as Karpathy's char-rnn did; an empty line separates dialogues. The rate is constant
at first and then falls to zero. A stopped run continues where it was when it is started again with the same number of
steps: its state is in WORK/lstm.pt, written every two minutes and on Ctrl-C. The last line says how many bits per byte
of held-out dialogues the written weights need, where prepare.py was given some; the ends of dialogues count as bits and
not as bytes, as for `gpt2rt perplexity --special`.
"""

import argparse
import math
import os
import pathlib
import signal
import time

import numpy as np
import torch

from gpt2rt.converter.vocabulary import END_OF_TEXT, Vocabulary

N_EMBD, N_HIDDEN = 32, 224
SHARES = {  # of the bytes: at first, and once the rate falls, more of the text whose answers fit best
    **{"talk": (0.33, 0.22), "about": (0.38, 0.5), "persona": (0.09, 0.08), "quips": (0.06, 0.12)},
    **{"answers": (0.01, 0.01), "fiction": (0.06, 0.03), "tasks": (0.05, 0.03)},
    **{"stories": (0.01, 0.005), "bargains": (0.01, 0.005)},
}
BATCH = 32  # rows of text
WINDOW = 192  # bytes of each row in a step; gradients go no further back, the state is carried over
PART = 512  # steps after which the rows are new ones
RATE = 3e-3
WARM_UP = 100  # steps
FALLING = 5 / 8  # of the steps, the last ones
SAVE_EVERY = 120  # seconds
MEASURE_EVERY = 200  # steps
MEASURED = 60  # held-out dialogues, at most, while training
LEVELS = 63  # of int8 in each direction: 7 bits make a smaller file and cost 0.005 bits per byte
SEED = 0
END = b"\n"  # after each dialogue, and before the first


class Lstm(torch.nn.Module):
    """Two layers of LSTM over bytes."""

    def __init__(self, n_embd=N_EMBD, n_hidden=N_HIDDEN):
        super().__init__()
        self.embedding = torch.nn.Embedding(256, n_embd)
        self.lstm = torch.nn.LSTM(n_embd, n_hidden, num_layers=2)
        self.head = torch.nn.Linear(n_hidden, 256)
        for bias in (self.lstm.bias_hh_l0, self.lstm.bias_hh_l1):
            bias.data[n_hidden : 2 * n_hidden] = 1.0  # of the forget gates: remember at first

    def forward(self, text, state=None):
        """Return the logits after each byte of text, and the state after the last one.

        Args:
            text: i64 (T, B). state: the state before it, None for the first.
        """
        outputs, state = self.lstm(self.embedding(text), state)
        return self.head(outputs), state  # (T, B, 256)

    def arrays(self):
        """Return {name: f32 array} as gpt2rt/arena/lstm.py reads them, not yet quantized.

        A layer's columns are those of its input and of its previous output; its rows are torch's gates i, f, g, o.
        """
        tensors = {"embedding": self.embedding.weight, "head": self.head.weight, "head.bias": self.head.bias}
        for i, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.lstm.all_weights):
            tensors[f"layer_{i}"] = torch.cat((w_ih, w_hh), dim=1)
            tensors[f"layer_{i}.bias"] = b_ih + b_hh
        return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}

    @classmethod
    def of(cls, arrays):
        """Return a model with the weights of a written file, {name: array}."""
        weights = {name: dequantized(arrays, name) for name in ("embedding", "layer_0", "layer_1", "head")}
        n_embd, n_hidden = weights["embedding"].shape[1], weights["head"].shape[1]
        model = cls(n_embd, n_hidden)
        state = {"embedding.weight": weights["embedding"], "head.weight": weights["head"]}
        state["head.bias"] = arrays["head.bias"].astype(np.float32)
        for i, n_in in enumerate((n_embd, n_hidden)):
            state[f"lstm.weight_ih_l{i}"], state[f"lstm.weight_hh_l{i}"] = np.split(weights[f"layer_{i}"], [n_in], 1)
            state[f"lstm.bias_ih_l{i}"] = arrays[f"layer_{i}.bias"].astype(np.float32)
            state[f"lstm.bias_hh_l{i}"] = np.zeros(4 * n_hidden, np.float32)
        model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in state.items()})
        return model


def quantized(arrays):
    """Return what is written: biases as f16, matrices as int8 with a scale per row, f16 `NAME.scale`."""
    written = {}
    for name, array in arrays.items():
        if name.endswith(".bias"):
            written[name] = array.astype(np.float16)
        else:
            scale = np.maximum(np.abs(array).max(axis=1) / LEVELS, 1e-4).astype(np.float16)
            written[name] = np.clip(np.rint(array / scale[:, None].astype(np.float32)), -LEVELS, LEVELS).astype(np.int8)
            written[f"{name}.scale"] = scale
    return written


def dequantized(arrays, name):
    return arrays[name].astype(np.float32) * arrays[f"{name}.scale"].astype(np.float32)[:, None]


class Rows:
    """Rows of text, each a sequence of random dialogues of the groups by their shares.

    Attributes:
        groups: {name: its dialogues, as bytes}. held_out: those to measure on, if any.
    """

    def __init__(self, work, n_steps):
        self.n_steps = n_steps
        vocabulary = Vocabulary.read(work / "encoder.json", work / "vocab.bpe")
        self._tokens = np.array(vocabulary.tokens, object)
        self._end = vocabulary.tokens.index(END_OF_TEXT.encode())
        self.groups = {name: self._dialogues(work, name) for name in SHARES}
        means = [sum(map(len, dialogues)) / len(dialogues) for dialogues in self.groups.values()]
        weights = np.array(list(SHARES.values())).T / means
        self._chances = weights / weights.sum(axis=1, keepdims=True)  # (2, n_groups), of the next dialogue's group
        is_measured = (work / "held_out.tokens.npy").exists()
        self.held_out = self._dialogues(work, "held_out") if is_measured else []
        self._part, self._rows = None, None

    def _dialogues(self, work, name):
        """Return the dialogues of a group, as bytes, without those that prepare.py dropped by their scores."""
        tokens = np.load(work / f"{name}.tokens.npy")
        path = work / f"{name}.learned.npy"
        learned = np.load(path) if path.exists() else np.ones(len(tokens), bool)
        ends = np.flatnonzero(tokens == self._end)
        begins = np.concatenate(([0], ends[:-1] + 1))
        spans = [(b, e) for b, e in zip(begins, ends, strict=True) if learned[b:e].any()]
        return [b"".join(self._tokens[tokens[begin:end]]) + END for begin, end in spans]

    def window(self, step):
        """Return the text of a step and the bytes after each of its bytes: i64 (T, B) both, the same at each call."""
        part, at = divmod(step, PART)
        if part != self._part:
            generator = np.random.default_rng([SEED, part])
            chances = self._chances[int(is_falling(part * PART, self.n_steps))]
            self._part, self._rows = part, np.stack([self._row(generator, chances) for _ in range(BATCH)], axis=1)
        window = torch.from_numpy(self._rows[at * WINDOW : (at + 1) * WINDOW + 1].astype(np.int64))
        return window[:-1], window[1:]

    def _row(self, generator, chances):
        """Return the text of a row in a part, u8 (PART * T + 1,)."""
        pieces, missing, groups = [END], PART * WINDOW, list(self.groups.values())
        while missing > 0:
            group = groups[generator.choice(len(groups), p=chances)]
            pieces.append(group[generator.integers(len(group))])
            missing -= len(pieces[-1])
        return np.frombuffer(b"".join(pieces), np.uint8)[: PART * WINDOW + 1]


def bits_per_byte(model, dialogues):
    """Return the bits that a model needs for dialogues, one after the other, per byte; their ENDs have no bytes."""
    text = torch.from_numpy(np.frombuffer(END + b"".join(dialogues), np.uint8).astype(np.int64))[:, None]
    state, loss = None, 0.0
    with torch.no_grad():
        for before, after in zip(text[:-1].split(4096), text[1:].split(4096), strict=True):
            logits, state = model(before, state)
            loss += torch.nn.functional.cross_entropy(logits.flatten(0, 1), after.flatten(), reduction="sum").item()
    return loss / math.log(2) / (len(text) - 1 - len(dialogues))


class Training:
    """A model, its optimizer, and its progress: all that a run needs to continue."""

    def __init__(self):
        torch.manual_seed(SEED)
        self.model, self.step, self.state = Lstm(), 0, None
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE, betas=(0.9, 0.99))

    def learn(self, text, targets, rate):
        """Take one step at a rate; return the mean loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, state = self.model(text, self.state)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.state = None if self.step % PART == 0 else tuple(one.detach() for one in state)
        return loss.item()

    def save(self, path):
        progress = {"step": self.step, "state": self.state}
        part = path.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **progress}, part)
        os.replace(part, path)

    @classmethod
    def resume(cls, path):
        saved, training = torch.load(path, weights_only=True), cls()
        training.model.load_state_dict(saved["model"])
        training.optimizer.load_state_dict(saved["optimizer"])
        training.step, training.state = saved["step"], saved["state"]
        return training


def is_falling(step, n_steps):
    """Return whether a step's rate is one that falls to zero."""
    return step >= n_steps - FALLING * n_steps


def rate(step, n_steps):
    """Return the rate of a step."""
    return RATE * min(1.0, (step + 1) / WARM_UP, (n_steps - step) / (FALLING * n_steps))


def run(training, rows, n_steps, path):
    """Train until `n_steps` are taken, or a signal comes; keep the state in `path`."""
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    saved, losses = time.monotonic(), []
    while training.step < n_steps and not stopped:
        losses.append(training.learn(*rows.window(training.step), rate(training.step, n_steps)))
        if training.step % MEASURE_EVERY == 0:
            held_out = bits_per_byte(training.model, rows.held_out[:MEASURED]) if rows.held_out else math.nan
            loss = sum(losses) / len(losses) / math.log(2)
            print(f"step {training.step:,}: {loss:.3f} bits, held out {held_out:.3f} bits per byte", flush=True)
            losses.clear()
        if time.monotonic() - saved > SAVE_EVERY:
            training.save(path)
            saved = time.monotonic()
    training.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path, help="the folder that prepare.py wrote")
    parser.add_argument("output", type=pathlib.Path, help="the file to write")
    parser.add_argument("--steps", type=int, default=8192, help="in all runs together (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path, rows = options.work / "lstm.pt", Rows(options.work, options.steps)
    training = Training.resume(path) if path.exists() else Training()
    n_parameters = sum(parameter.numel() for parameter in training.model.parameters())
    print(f"{n_parameters:,} parameters, from step {training.step:,} on, {BATCH * WINDOW:,} bytes each", flush=True)
    run(training, rows, options.steps, path)
    arrays = quantized(training.model.arrays())
    np.savez_compressed(options.output, **arrays)
    size = f"{options.output}: {options.output.stat().st_size:,} bytes"
    if rows.held_out:
        size += f", {bits_per_byte(Lstm.of(arrays), rows.held_out):.3f} bits per byte of held-out dialogues"
    print(size)


if __name__ == "__main__":
    main()
