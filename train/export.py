"""Writes what train.py trained as a TensorFlow checkpoint with the names and files of OpenAI's release.

    python train/export.py WORK CHECKPOINT
    python train/export.py WORK CHECKPOINT --average chat.pt --share 0.13   # with 13% of an earlier state.pt

TensorFlow itself writes the weights.
"""

import argparse
import json
import os
import pathlib
import shutil

import torch

from gpt2 import Gpt2
from gpt2rt.modelfile import Hyperparameters

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

PREFIX = "model.ckpt"


def arrays(model):
    """Return {name in the checkpoint: f32 array}; matrices of layers are (1, n_in, n_out) there."""
    found = {}
    for name, parameter in model.tensors().items():
        array = parameter.detach().float().cpu().numpy()
        found[f"model/{name}"] = array.T[None] if name.endswith("/w") else array
    return found


def write(model, vocabulary, folder):
    """Write the checkpoint of `model` to `folder`, with the vocabulary from the folder `vocabulary`."""
    import tensorflow as tf  # takes seconds: not for --help

    folder.mkdir(parents=True, exist_ok=True)
    tensors = arrays(model)
    tf.raw_ops.SaveV2(
        prefix=str(folder / PREFIX),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{PREFIX}"\n', encoding="utf-8")
    (folder / "hparams.json").write_text(json.dumps(model.shape._asdict(), indent=2), encoding="utf-8")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(vocabulary / name, folder / name)


def averaged(weights, others, share):
    """Return the weights with a share of `others`, which come from the same training: {name: tensor} all three."""
    return {name: (1 - share) * weight + share * others[name] for name, weight in weights.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path, help="the folder with state.pt and the vocabulary")
    parser.add_argument("checkpoint", type=pathlib.Path, help="the folder to write")
    parser.add_argument("--average", type=pathlib.Path, metavar="STATE", help="average with the weights of a state.pt")
    parser.add_argument("--share", type=float, default=0.5, help="share of STATE in the average (default: %(default)s)")
    options = parser.parse_args()
    state = torch.load(options.work / "state.pt", map_location="cpu", weights_only=True)
    model = Gpt2(Hyperparameters(**state["shape"]))
    weights = state["model"]
    if options.average:
        weights = averaged(
            weights, torch.load(options.average, map_location="cpu", weights_only=True)["model"], options.share
        )
    model.load_state_dict(weights)
    write(model, options.work, options.checkpoint)


if __name__ == "__main__":
    main()
