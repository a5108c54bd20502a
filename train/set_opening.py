"""Copy a model file with another chat opening and the same weights: python train/set_opening.py MODEL OPENING OUTPUT

MODEL is a model file of any type, OPENING a UTF-8 text of example turns, OUTPUT the file to write.
"""

import argparse
import pathlib

from gpt2rt.modelfile import ModelFile
from gpt2rt.modelfile.writer import Writer


def set_opening(model, opening, output):
    """Write a copy of a model file whose metadata has this opening.

    Args:
        model: path of the file. opening: text. output: path of the copy; a file that exists is refused.
    """
    file = ModelFile(model)
    chat = {**file.metadata.get("chat", {}), "opening": opening}
    shape = file.hyperparameters, file.weight_type, file.group_size
    vocabulary, weights = bytes(file.sections["vocabulary"]), file.sections["weights"]
    with Writer(output, *shape, {**file.metadata, "chat": chat}, vocabulary, is_tied=file.is_tied) as writer:
        for tensor in writer.tensors:
            writer.write_tensor([weights[tensor.offset : tensor.offset + tensor.length]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("model")
    parser.add_argument("opening")
    parser.add_argument("output")
    arguments = parser.parse_args()
    set_opening(arguments.model, pathlib.Path(arguments.opening).read_text(encoding="utf-8"), arguments.output)


if __name__ == "__main__":
    main()
