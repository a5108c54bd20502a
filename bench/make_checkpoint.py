"""Make a GPT-2 checkpoint in the format of OpenAI's release, with random weights, for tests and timing at full size.

    python bench/make_checkpoint.py 124M models/124M --vocabulary FOLDER_WITH_ENCODER_JSON

TensorFlow's Saver writes it, with the release's names. The same arguments give the same weights.
"""

import json
import os
import pathlib
import random
import shutil

import click

# n_embd, n_head, n_layer of the four released sizes
SIZES = {"124M": (768, 12, 12), "355M": (1024, 16, 24), "774M": (1280, 20, 36), "1558M": (1600, 25, 48)}
N_VOCAB, N_CTX = 50257, 1024
END_OF_TEXT = "<|endoftext|>"
STDDEV = {"wpe": 0.01}  # of the initial weights; 0.02 for the others, as in the release's model.py


def byte_characters():
    """Return the 256 characters that stand for bytes in a GPT-2 vocabulary, in the order of their tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def synthetic_vocabulary(n_vocab, seed):
    """Make a byte-level BPE of n_vocab tokens with random merges, each of two earlier tokens.

    Returns:
        (encoder, merges): {token: id} and a list of (left, right).
    """
    tokens = byte_characters()
    n_merges = n_vocab - len(tokens) - 1
    if n_merges < 0:
        raise click.UsageError(f"n_vocab {n_vocab}: expected at least {len(tokens) + 1}, every byte and {END_OF_TEXT}")
    generator, merges, known = random.Random(seed), [], set(tokens)
    while len(merges) < n_merges:
        left, right = generator.choice(tokens), generator.choice(tokens)
        if len(left + right) <= 16 and left + right not in known:
            merges.append((left, right))
            tokens.append(left + right)
            known.add(left + right)
    return {token: number for number, token in enumerate([*tokens, END_OF_TEXT])}, merges


def write_vocabulary(folder, n_vocab, seed):
    """Write encoder.json and vocab.bpe."""
    encoder, merges = synthetic_vocabulary(n_vocab, seed)
    (folder / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def variable_shapes(n_vocab, n_ctx, n_embd, n_layer):
    """Return {name: shape} of the variables under `model/`, as in the release's model.py."""
    shapes = {"wpe": (n_ctx, n_embd), "wte": (n_vocab, n_embd), "ln_f/g": (n_embd,), "ln_f/b": (n_embd,)}
    for layer in range(n_layer):
        for norm in ("ln_1", "ln_2"):
            shapes[f"h{layer}/{norm}/g"] = shapes[f"h{layer}/{norm}/b"] = (n_embd,)
        for name, n_in, n_out in (
            ("attn/c_attn", n_embd, 3 * n_embd),
            ("attn/c_proj", n_embd, n_embd),
            ("mlp/c_fc", n_embd, 4 * n_embd),
            ("mlp/c_proj", 4 * n_embd, n_embd),
        ):
            shapes[f"h{layer}/{name}/w"] = (1, n_in, n_out)
            shapes[f"h{layer}/{name}/b"] = (n_out,)
    return shapes


def write_weights(folder, shapes, seed):
    """Write model.ckpt.* and the file `checkpoint`; TensorFlow initializes one variable at a time."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # takes seconds, so not imported for --help

    v1 = tf.compat.v1
    config = v1.ConfigProto()
    # Otherwise TensorFlow folds the random values into constants and keeps a second copy of each.
    config.graph_options.optimizer_options.opt_level = v1.OptimizerOptions.L0
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        for number, (name, shape) in enumerate(shapes.items()):
            if name.endswith("/g"):
                value = tf.ones(shape)
            elif name.endswith("/b"):
                value = tf.zeros(shape)
            else:
                value = tf.random.stateless_normal(shape, seed=(seed, number), stddev=STDDEV.get(name, 0.02))
            variable = v1.get_variable(f"model/{name}", initializer=value, use_resource=True)
            session.run(variable.initializer)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"))


@click.command()
@click.argument("size", type=click.Choice([*SIZES, "custom"]))
@click.argument("folder", type=click.Path(path_type=pathlib.Path, file_okay=False))
@click.option("--n-vocab", type=click.IntRange(257), help=f"Tokens of the vocabulary.  [default: {N_VOCAB}]")
@click.option("--n-ctx", type=click.IntRange(1), help=f"Positions.  [default: {N_CTX}]")
@click.option("--n-embd", type=click.IntRange(1), help="Width.")
@click.option("--n-head", type=click.IntRange(1), help="Heads; a divisor of the width.")
@click.option("--n-layer", type=click.IntRange(1), help="Layers.")
@click.option(
    "--vocabulary",
    type=click.Path(path_type=pathlib.Path, exists=True, file_okay=False),
    help="Copy encoder.json and vocab.bpe from this folder.  [default: a synthetic vocabulary]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the weights and the vocabulary."
)
def main(size, folder, n_vocab, n_ctx, n_embd, n_head, n_layer, vocabulary, seed):
    """Write a checkpoint with random weights to FOLDER.

    SIZE is a released size, or `custom`, which requires --n-embd, --n-head and --n-layer. The options override single
    hyperparameters of a released size.
    """
    given = (n_embd, n_head, n_layer)
    n_embd, n_head, n_layer = (a or b for a, b in zip(given, SIZES.get(size, (None,) * 3), strict=True))
    if None in (n_embd, n_head, n_layer):
        raise click.UsageError("custom: expected --n-embd, --n-head and --n-layer")
    if n_embd % n_head:
        raise click.UsageError(f"--n-embd: got {n_embd}, expected a multiple of --n-head, {n_head}")
    n_vocab, n_ctx = n_vocab or N_VOCAB, n_ctx or N_CTX
    folder.mkdir(parents=True, exist_ok=True)
    if vocabulary:
        n_tokens = len(json.loads((vocabulary / "encoder.json").read_text(encoding="utf-8")))
        if n_tokens != n_vocab:
            raise click.UsageError(f"{vocabulary}: {n_tokens} tokens, expected {n_vocab} (give --n-vocab)")
        for name in ("encoder.json", "vocab.bpe"):
            shutil.copyfile(vocabulary / name, folder / name)
    else:
        write_vocabulary(folder, n_vocab, seed)
    numbers = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": n_embd, "n_head": n_head, "n_layer": n_layer}
    (folder / "hparams.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    write_weights(folder, variable_shapes(n_vocab, n_ctx, n_embd, n_layer), seed)
    click.echo(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
