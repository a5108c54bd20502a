"""Trains a GPT-2 on what prepare.py made, on a GPU where there is one.

    python train/train.py WORK broad --minutes 9 --n-embd 384 --n-head 6 --n-layer 10 --batch 65536
    python train/train.py WORK chat --minutes 9 --batch 65536
    python train/train.py WORK polish --minutes 5 --batch 65536

`broad` learns English at a constant rate, `chat` continues with the rate falling to zero, and `polish` does so once
more with a lower rate and more of the text that fits best. Progress is time, not steps, so a run ends when it should
however busy the machine is. A stopped run continues where it was when it is started again: its state is in
WORK/state.pt, written every two minutes and on Ctrl-C. WORK/curve.csv gets the losses, including those of held-out
dialogues where prepare.py was given some. The same commands train on a CPU, with smaller numbers.
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
from muon import Muon


class Stage(NamedTuple):
    """A part of the training."""

    window: int  # tokens of a sequence
    batch: int  # tokens of a step
    matrix_rate: float  # of Muon, for the layers' matrices
    other_rate: float  # of AdamW, for the rest
    is_falling: bool  # whether the rates fall to zero
    is_selective: bool  # whether turns that prepare.py marked are read but not learned
    shares: dict[str, float]  # each group's fraction of the tokens


STAGES = {
    "broad": Stage(
        window=512,
        batch=8192,
        matrix_rate=0.015,
        other_rate=2e-3,
        is_falling=False,
        is_selective=False,
        shares={
            "prose": 0.34,
            "fiction": 0.23,
            "stories": 0.03,
            "tasks": 0.09,
            "talk": 0.21,
            "persona": 0.03,
            "bargains": 0.01,
            "answers": 0.01,
            "quips": 0.01,
            "about": 0.04,
        },
    ),
    "chat": Stage(
        window=512,
        batch=16384,
        matrix_rate=0.015,
        other_rate=2e-3,
        is_falling=True,
        is_selective=True,
        shares={
            "prose": 0.15,
            "fiction": 0.19,
            "stories": 0.02,
            "tasks": 0.08,
            "talk": 0.25,
            "persona": 0.05,
            "bargains": 0.005,
            "answers": 0.01,
            "quips": 0.015,
            "about": 0.23,
        },
    ),
    "polish": Stage(
        window=512,
        batch=16384,
        matrix_rate=0.006,
        other_rate=8e-4,
        is_falling=True,
        is_selective=True,
        shares={
            "prose": 0.07,
            "fiction": 0.10,
            "stories": 0.01,
            "tasks": 0.07,
            "talk": 0.20,
            "persona": 0.06,
            "bargains": 0.005,
            "answers": 0.01,
            "quips": 0.025,
            "about": 0.45,
        },
    ),
}
WARM_UP = 100  # steps
SAVE_EVERY = 120  # seconds
MEASURE_EVERY = 128  # steps
WAIT_EVERY = 16  # steps after which the clock waits for the GPU
MEASURED = 24576  # held-out tokens, at most
SEED = 0
IGNORED = -100  # a target that isn't learned


class Windows:
    """Training windows, sampled from the groups of a stage; all tokens lie on the device."""

    def __init__(self, work, stage, device):
        self.stage, self.device = stage, device
        shares = np.array(list(stage.shares.values()))
        self.shares = shares / shares.sum()
        tokens, learned, self.starts = [], [], []
        for name in stage.shares:
            tokens.append(np.load(work / f"{name}.tokens.npy"))
            starts = np.load(work / f"{name}.starts.npy")
            path = work / f"{name}.learned.npy"
            is_learned = np.load(path) if stage.is_selective and path.exists() else np.ones(len(tokens[-1]), bool)
            learned.append(is_learned)
            self.starts.append(starts[is_learned[starts]])  # not at a dropped dialogue
        self.lengths = np.array([len(group) for group in tokens])
        self.begins = np.cumsum(self.lengths) - self.lengths  # of each group among all tokens
        self.tokens = torch.from_numpy(np.concatenate(tokens).astype(np.int32)).to(device)
        self.learned = torch.from_numpy(np.concatenate(learned)).to(device)

    def sample(self, step):
        """Return the windows of a step, the same at each call.

        Returns:
            tokens, targets: i64 (B, T); targets are IGNORED where the text isn't learned. A window that begins at a
            group's last documents continues with its first.
        """
        generator = np.random.default_rng([SEED, step])
        groups = generator.choice(len(self.starts), self.stage.batch // self.stage.window, p=self.shares)
        begins = np.array([generator.choice(self.starts[group]) for group in groups])
        begins, groups, lengths = (
            torch.from_numpy(array).to(self.device, non_blocking=True)[:, None]
            for array in (begins, self.begins[groups], self.lengths[groups])
        )
        index = groups + (begins + torch.arange(self.stage.window + 1, device=self.device)) % lengths
        windows = self.tokens[index].long()
        targets = torch.where(self.learned[index[:, 1:]], windows[:, 1:], IGNORED)
        return windows[:, :-1], targets


def held_out_windows(work, window):
    """Return the tokens of WORK/held_out.tokens.npy as consecutive windows, (n, T + 1); None without such a file.

    T is `window`, or less where there are not as many tokens.
    """
    path = work / "held_out.tokens.npy"
    if not path.exists():
        return None
    tokens = np.load(path).astype(np.int64)
    window = min(window, len(tokens) - 1)
    n = (min(len(tokens), MEASURED + 1) - 1) // window
    return torch.from_numpy(np.array([tokens[i * window : (i + 1) * window + 1] for i in range(n)]))


class Training:
    """A model, its optimizers, and its progress: all that a run needs to continue."""

    def __init__(self, model, device):
        self.model, self.device = model.to(device), device
        matrices = [p for n, p in model.named_parameters() if n.startswith("h.") and p.ndim == 2]
        known = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in known]
        adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=device == "cuda")
        self.optimizers = [Muon(matrices, weight_decay=0.1), adam]
        self.stage, self.seconds, self.step = None, 0.0, 0
        self._compiled = torch.compile(model)

    def _loss(self, model, tokens, targets):
        """Return the mean loss of targets (B, T)."""
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return model(tokens, targets)

    def learn(self, tokens, targets, rates):
        """Take one step with a rate for each of the optimizers; return the loss before it, a tensor."""
        self.model.train()
        loss = self._loss(self._compiled, tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.detach()

    def measure(self, windows):
        """Return the mean loss of held-out windows, a float."""
        self.model.eval()
        with torch.no_grad():
            parts = [window.to(self.device) for window in windows.split(4)]
            losses = [self._loss(self.model, part[:, :-1], part[:, 1:]) * len(part) for part in parts]
        return sum(loss.item() for loss in losses) / len(windows)

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
    def resume(cls, path, device, dropout):
        state = torch.load(path, map_location=device, weights_only=True)
        training = cls(Gpt2(Hyperparameters(**state["shape"]), dropout), device)
        training.model.load_state_dict(state["model"])
        for optimizer, saved in zip(training.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        training.stage, training.seconds, training.step = state["progress"]
        return training


def initial_model(work, initial, shape, dropout=0.0):
    """Return a new model with the vocabulary of `work`, random or from `initial`, whose shape it then has."""
    n_vocab = len(json.loads((work / "encoder.json").read_text(encoding="utf-8")))
    given = {name: number for name, number in shape.items() if number is not None}
    if not initial:
        torch.manual_seed(SEED)
        new = Hyperparameters(n_vocab, n_ctx=512, n_embd=256, n_head=4, n_layer=4)._replace(**given)
        return Gpt2(new, dropout)
    is_file = os.path.isfile(initial) and is_model_file(initial)
    source = ModelFileSource(initial) if is_file else TensorFlowCheckpoint(initial)
    if source.hyperparameters.n_vocab != n_vocab:
        raise SystemExit(
            f"{initial}: has {source.hyperparameters.n_vocab} tokens, expected the {n_vocab} of {work}"
            " (give prepare.py its --vocabulary)"
        )
    model = Gpt2(source.hyperparameters._replace(**given), dropout)
    model.load({tensor.name: source.tensor(tensor.name) for tensor in tensor_table(source.hyperparameters, "f32", 0)})
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path, help="the folder that prepare.py wrote")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, required=True, help="duration of the stage, over all its runs")
    parser.add_argument(
        "--initial",
        metavar="SOURCE",
        help="begin with the weights of a checkpoint or a model file (f32, f16), whose vocabulary is WORK's",
    )
    sizes = ("n_ctx", "n_embd", "n_head", "n_layer")
    for name in sizes:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="size of a new model")
    parser.add_argument("--batch", type=int, help="tokens of a step")
    parser.add_argument("--window", type=int, help="tokens of a sequence")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the stage's rates (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the layers (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="stop after N steps at the latest")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = options.work / "state.pt"
    if state.exists():
        training = Training.resume(state, device, options.dropout)
    else:
        shape = {name: getattr(options, name) for name in sizes}
        training = Training(initial_model(options.work, options.initial, shape, options.dropout), device)
    if training.stage != options.stage:
        training.stage, training.seconds = options.stage, 0.0
    stage = STAGES[options.stage]
    stage = stage._replace(
        batch=options.batch or stage.batch,
        window=options.window or min(stage.window, training.model.shape.n_ctx),
        matrix_rate=options.rate * stage.matrix_rate,
        other_rate=options.rate * stage.other_rate,
    )
    run(training, stage, options.work, options.minutes * 60, options.steps, state)


def run(training, stage, work, budget, n_steps, state):
    """Train until `budget` seconds of the stage are used, `n_steps` are taken where given, or a signal comes."""
    windows, held_out = Windows(work, stage, training.device), held_out_windows(work, stage.window)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    n_parameters = sum(parameter.numel() for parameter in training.model.parameters())
    print(f"{n_parameters:,} parameters, {training.device}, steps of {stage.batch:,} tokens")
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
            losses.append(training.learn(*windows.sample(training.step), rates))
            if training.device == "cuda" and training.step % WAIT_EVERY == 0:
                torch.cuda.synchronize()
            now = time.monotonic()
            training.seconds, last = training.seconds + now - last, now
            is_over = training.seconds >= budget or training.step - first_step == n_steps
            if len(losses) == MEASURE_EVERY or is_over:
                measured = training.measure(held_out) if held_out is not None else float("nan")
                row = [training.stage, training.step, training.seconds, torch.stack(losses).mean().item(), measured]
                curve.writerow([f"{value:.5g}" if isinstance(value, float) else value for value in row])
                file.flush()
                print("{} step {:,}, {:,.0f} s: loss {:.4f}, held out {:.4f}".format(*row), flush=True)
                losses.clear()
            if now - saved > SAVE_EVERY:
                training.save(state)
                saved = now
            if is_over:
                break
    training.save(state)


if __name__ == "__main__":
    main()
