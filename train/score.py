"""Scores how much each answer of the dialogues owes to what was said before it, to find those that would fit anything.

    python train/score.py TEXT SCORES.npz --model train/demo-f16.bin
    python train/score.py TEXT SCORES.npz --print      # examples of what prepare.py drops with these scores

The score of an answer is its pointwise mutual information with its context under the model, in nats: log p(answer |
the two turns before it) - log mean p(answer | two turns of other dialogues). An answer such as "That's great!" is
about as likely after anything and scores near zero; one below zero fits other dialogues better than its own.

SCORES has for each group of SCORED an array i8 (n_turns,), in units of UNIT nats and in the order of
`text.documents`; a turn that begins a dialogue has NOT_SCORED. Uses a GPU where there is one: the whole text takes
minutes there and hours on a CPU.
"""

import argparse
import pathlib
import random
import tempfile

import numpy as np
import torch

from gpt2 import Gpt2
from gpt2rt.converter.export import export
from gpt2rt.converter.model_source import ModelFileSource
from gpt2rt.lines import lines_of
from gpt2rt.modelfile import tensor_table
from prepare import UNIT, Fit, batched, read_tokenizer
from text import documents

SCORED = ("talk", "persona", "fiction")
NOT_SCORED = -128
N_OTHER = 2  # other contexts that an answer is compared with
N_CONTEXT, N_ANSWER = 96, 96  # tokens of a context (its last) and of an answer (its first)
BATCH = 1 << 16  # tokens of a forward pass


def contexts_and_answers(tokenizer, texts):
    """Return the tokens around each answer.

    Returns:
        contexts: per turn the last N_CONTEXT tokens of the two turns before it and of its speaker's name, None for the
        first turn of a dialogue. answers: per turn its first N_ANSWER tokens, with the newline that ends it.
    """
    contexts, answers = [], []
    for batch in batched(texts, 2000):
        lines = [line + "\n" for text in batch for line in lines_of(text)]
        first = [i == 0 for text in batch for i in range(text.count("\n"))]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(lines)]
        for i, line in enumerate(ids):
            name, answer = line[:2], line[2:]  # "User:" and "Bot:" are two tokens each
            before = [] if first[i] else ids[i - 1] if first[i - 1] else ids[i - 2] + ids[i - 1]
            contexts.append((before[-N_CONTEXT:] + name) if before else None)
            answers.append(answer[:N_ANSWER])
    return contexts, answers


@torch.no_grad()
def log_probabilities(model, contexts, answers, device):
    """Return log p(answer | context) for each pair, f64 (n,), in nats."""
    found = np.zeros(len(answers))
    order = sorted(range(len(answers)), key=lambda i: len(contexts[i]) + len(answers[i]))
    begin, length = 0, N_CONTEXT + N_ANSWER
    while begin < len(order):
        chosen = order[begin : begin + max(1, BATCH // (2 * length))]
        begin += len(chosen)
        length = max(len(contexts[i]) + len(answers[i]) for i in chosen)
        tokens = np.zeros((len(chosen), length), np.int64)
        is_answer = np.zeros((len(chosen), length), bool)
        for row, i in enumerate(chosen):
            n_context, end = len(contexts[i]), len(contexts[i]) + len(answers[i])
            tokens[row, :end] = contexts[i] + answers[i]
            is_answer[row, n_context:end] = True
        tokens, is_answer = (torch.from_numpy(array).to(device) for array in (tokens, is_answer))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            losses = model.losses(tokens[:, :-1], tokens[:, 1:])
        found[chosen] = -(losses * is_answer[:, 1:]).sum(1).double().cpu().numpy()
    return found


def scores(model, tokenizer, texts, device):
    """Return the scores of all turns of dialogues, i8 (n_turns,), as the module's docstring defines them."""
    contexts, answers = contexts_and_answers(tokenizer, texts)
    turns = [i for i, context in enumerate(contexts) if context]
    answers = [answers[i] for i in turns]
    own = [contexts[i] for i in turns]
    generator = random.Random(0)
    likely = log_probabilities(model, own, answers, device)
    others = []
    for _ in range(N_OTHER):
        other = [generator.choice(own)[:-2] + context[-2:] for context in own]  # answers keep their speaker
        others.append(log_probabilities(model, other, answers, device))
    information = likely - (np.logaddexp.reduce(others, axis=0) - np.log(N_OTHER))
    found = np.full(len(contexts), NOT_SCORED, np.int8)
    found[turns] = np.clip(np.rint(information / UNIT), -127, 127)
    return found


def load(path, device):
    """Return the model of a model file and its tokenizer."""
    source = ModelFileSource(path)
    model = Gpt2(source.hyperparameters)
    model.load({tensor.name: source.tensor(tensor.name) for tensor in tensor_table(source.hyperparameters, "f32", 0)})
    with tempfile.TemporaryDirectory() as folder:
        export(path, pathlib.Path(folder) / "model")
        return model.to(device).eval(), read_tokenizer(pathlib.Path(folder) / "model")


def print_examples(text, path, n=25):
    """Print what is dropped, for each group: how many, and some of them."""
    for group, values in np.load(path).items():
        texts = list(documents(text, group))
        fit = Fit(values, [text.count("\n") for text in texts])
        n_scored = (values != NOT_SCORED).sum()
        print(f"== {group}: {len(texts):,} dialogues, {n_scored:,} answers")
        print(f"   dropped {fit.n_dropped_dialogues:,} dialogues and {fit.n_dropped_turns:,} answers of the others")
        generator = random.Random(0)
        lines = [line for text in texts for line in lines_of(text)]
        kinds = {
            "an answer that would fit anything": np.flatnonzero(~fit.learned & fit.kept & (values != NOT_SCORED)),
            "an answer of a dialogue that doesn't fit": np.flatnonzero(~fit.kept & (values != NOT_SCORED)),
            "kept": np.flatnonzero(fit.learned & (values != NOT_SCORED)),
        }
        for kind, found in kinds.items():
            print(f"-- {kind}:")
            for i in sorted(generator.sample(found.tolist(), min(n, len(found)))):
                print(f"   {values[i] * UNIT:5.1f}  {lines[i - 1][:110]} => {lines[i][:110]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="the folder of prose and dialogues")
    parser.add_argument("scores", type=pathlib.Path, help="the file of scores")
    parser.add_argument("--model", type=pathlib.Path, help="score with this model file (f16 or f32)")
    parser.add_argument("--print", action="store_true", help="print examples of what is dropped")
    options = parser.parse_args()
    if options.model:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, tokenizer = load(options.model, device)
        found = {group: scores(model, tokenizer, documents(options.text, group), device) for group in SCORED}
        np.savez_compressed(options.scores, **found)
    if options.print:
        print_examples(options.text, options.scores)


if __name__ == "__main__":
    main()
