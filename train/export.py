"""Writes what train.py trained as a TensorFlow checkpoint with the names and files of OpenAI's release.

    python train/export.py WORK CHECKPOINT

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
    """{name in the checkpoint: f32 array}; matrices of layers are (1, n_in, n_out) there."""
    found = {}
    for name, parameter in model.tensors().items():
        array = parameter.detach().float().cpu().numpy()
        found[f"model/{name}"] = array.T[None] if name.endswith("/w") else array
    return found


def write(model, vocabulary, folder):
    """Writes the checkpoint of `model` to `folder`, with the vocabulary that lies in the folder `vocabulary`."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("checkpoint", type=pathlib.Path)
    options = parser.parse_args()
    state = torch.load(options.work / "state.pt", map_location="cpu", weights_only=True)
    model = Gpt2(Hyperparameters(**state["shape"]))
    model.load_state_dict(state["model"])
    write(model, options.work, options.checkpoint)


if __name__ == "__main__":
    main()
