"""Trains a GPT-2 on what prepare.py made, on a GPU where there is one.

    python train/train.py WORK broad --minutes 35
    python train/train.py WORK chat --minutes 60

`broad` learns English at a constant rate, `chat` goes on from there with the rate falling to zero. Progress is time,
not steps, so that a run ends when it should however busy the machine is. A run that was stopped goes on where it was
when it is started again: its state is in WORK/state.pt, written every two minutes and on Ctrl-C. WORK/curve.csv gets
the losses, those of held-out dialogues too where prepare.py was given some.
"""

import argparse
import csv
import json
import os
import pathlib
import signal
import time
from typing import NamedTuple

import numpy as np
import torch

from gpt2 import Gpt2
from gpt2rt.converter.model_source import ModelFileSource, is_model_file
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.modelfile import Hyperparameters, tensor_table


class Stage(NamedTuple):
    """A part of the training."""

    window: int  # tokens of a sequence
    batch: int  # tokens of a step
    matrix_rate: float  # of Muon, for the layers' matrices
    other_rate: float  # of AdamW, for the rest
    is_falling: bool  # whether the rates fall to zero
    shares: dict[str, float]  # of the tokens, each group's


STAGES = {
    "broad": Stage(
        window=256,
        batch=8192,
        matrix_rate=0.01,
        other_rate=2e-3,
        is_falling=False,
        shares={
            "prose": 0.26,
            "fiction": 0.23,
            "stories": 0.04,
            "tasks": 0.12,
            "talk": 0.23,
            "persona": 0.06,
            "bargains": 0.02,
            "answers": 0.02,
            "quips": 0.02,
        },
    ),
    "chat": Stage(
        window=512,
        batch=16384,
        matrix_rate=0.015,
        other_rate=3e-3,
        is_falling=True,
        shares={
            "prose": 0.05,
            "fiction": 0.14,
            "stories": 0.02,
            "tasks": 0.08,
            "talk": 0.35,
            "persona": 0.15,
            "bargains": 0.03,
            "answers": 0.03,
            "quips": 0.05,
            "about": 0.10,
        },
    ),
}
WARM_UP = 100  # steps
SAVE_EVERY = 120  # seconds
MEASURE_EVERY = 1 << 20  # tokens
MEASURED = 24576  # held-out tokens, at most
SEED = 0


class Windows:
    """Training windows, drawn from the groups of a stage."""

    def __init__(self, work, stage):
        self.names, shares = list(stage.shares), np.array(list(stage.shares.values()))
        self.stage, self.shares = stage, shares / shares.sum()
        self.tokens = [np.load(work / f"{name}.tokens.npy", mmap_mode="r") for name in self.names]
        self.starts = [np.load(work / f"{name}.starts.npy") for name in self.names]

    def draw(self, step):
        """The windows of a step, the same at each call.

        Returns:
            (B, T + 1) i64; a window that begins at the last documents goes on with the first.
        """
        generator = np.random.default_rng([SEED, step])
        rows = []
        for group in generator.choice(len(self.names), self.stage.batch // self.stage.window, p=self.shares):
            begin = generator.choice(self.starts[group])
            rows.append(np.take(self.tokens[group], np.arange(begin, begin + self.stage.window + 1), mode="wrap"))
        return torch.from_numpy(np.array(rows, np.int64))


def held_out_windows(work, window):
    """The tokens of WORK/held_out.tokens.npy, (n, T + 1), windows one behind the other; None without such a file."""
    path = work / "held_out.tokens.npy"
    if not path.exists():
        return None
    tokens = np.load(path).astype(np.int64)
    n = (min(len(tokens), MEASURED + 1) - 1) // window
    return torch.from_numpy(np.array([tokens[i * window : (i + 1) * window + 1] for i in range(n)]))


class Training:
    """A model, its optimizers, and how far it is; all that a run needs to go on."""

    def __init__(self, model, device):
        self.model, self.device = model.to(device), device
        matrices = [p for n, p in model.named_parameters() if n.startswith("h.") and p.ndim == 2]
        known = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in known]
        muon = torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original")
        adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimizers = [muon, adam]
        self.stage, self.seconds, self.step = None, 0.0, 0
        self._compiled = torch.compile(model)

    def _loss(self, model, windows):
        """The mean loss of windows (B, T + 1)."""
        windows = windows.to(self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return model(windows[:, :-1], windows[:, 1:])

    def learn(self, windows, rates):
        """One step with a rate for each of the optimizers; returns the loss before it, a float."""
        loss = self._loss(self._compiled, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def measure(self, windows):
        """The mean loss of held-out windows, a float."""
        with torch.no_grad():
            return sum(self._loss(self.model, window).item() for window in windows.split(1)) / len(windows)

    def save(self, path):
        state = {
            "shape": self.model.shape._asdict(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.stage, self.seconds, self.step),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    @classmethod
    def resume(cls, path, device):
        state = torch.load(path, map_location=device, weights_only=True)
        training = cls(Gpt2(Hyperparameters(**state["shape"])), device)
        training.model.load_state_dict(state["model"])
        for optimizer, saved in zip(training.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        training.stage, training.seconds, training.step = state["progress"]
        return training


def initial_model(work, initial, shape):
    """A new model with the vocabulary of `work`, random or from `initial`, whose shape it then has."""
    n_vocab = len(json.loads((work / "encoder.json").read_text(encoding="utf-8")))
    given = {name: number for name, number in shape.items() if number is not None}
    if not initial:
        torch.manual_seed(SEED)
        return Gpt2(Hyperparameters(n_vocab, n_ctx=512, n_embd=256, n_head=4, n_layer=4)._replace(**given))
    source = ModelFileSource(initial) if is_model_file(initial) else TensorFlowCheckpoint(initial)
    if source.hyperparameters.n_vocab != n_vocab:
        raise SystemExit(
            f"{initial}: has {source.hyperparameters.n_vocab} tokens, expected the {n_vocab} of {work}"
            " (give prepare.py its --vocabulary)"
        )
    model = Gpt2(source.hyperparameters._replace(**given))
    model.load({tensor.name: source.tensor(tensor.name) for tensor in tensor_table(source.hyperparameters, "f32", 0)})
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument(
        "--initial",
        metavar="SOURCE",
        help="begin with the weights of a checkpoint or a model file (f32, f16), whose vocabulary is WORK's",
    )
    for name in ("n_embd", "n_head", "n_layer"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="of a model that is begun")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = options.work / "state.pt"
    if state.exists():
        training = Training.resume(state, device)
    else:
        shape = {name: getattr(options, name) for name in ("n_embd", "n_head", "n_layer")}
        training = Training(initial_model(options.work, options.initial, shape), device)
    if training.stage != options.stage:
        training.stage, training.seconds = options.stage, 0.0
    run(training, options.work, options.minutes * 60, state)


def run(training, work, budget, state):
    """Trains until `budget` seconds of the stage are used, or a signal."""
    stage = STAGES[training.stage]
    windows, held_out = Windows(work, stage), held_out_windows(work, stage.window)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    print(f"{training.stage} from step {training.step:,} on, {training.seconds:,.0f} of {budget:,.0f} s", flush=True)
    last = saved = time.monotonic()
    losses, first_step = [], training.step
    with open(work / "curve.csv", "a", newline="") as file:
        curve = csv.writer(file)
        while training.seconds < budget and not stopped:
            part = min(1.0, (training.step - first_step + 1) / WARM_UP)
            if stage.is_falling:
                part *= 1 - training.seconds / budget
            rates = [part * stage.matrix_rate, part * stage.other_rate]
            losses.append(training.learn(windows.draw(training.step), rates))
            now = time.monotonic()
            training.seconds, last = training.seconds + now - last, now
            if len(losses) * stage.batch >= MEASURE_EVERY or training.seconds >= budget:
                measured = training.measure(held_out) if held_out is not None else float("nan")
                row = [training.stage, training.step, training.seconds, sum(losses) / len(losses), measured]
                curve.writerow([f"{value:.5g}" if isinstance(value, float) else value for value in row])
                file.flush()
                print("{} step {:,}, {:,.0f} s: loss {:.4f}, held out {:.4f}".format(*row), flush=True)
                losses.clear()
            if now - saved > SAVE_EVERY:
                training.save(state)
                saved = now
    training.save(state)


if __name__ == "__main__":
    main()
