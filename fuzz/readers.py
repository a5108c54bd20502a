"""Fuzz what reads files and requests of others in Python: only gpt2rt's own exceptions come out, in bounded time.

    python fuzz/readers.py TARGET [--seconds N] [--inputs N] [--seed N] [--corpus FOLDER]

With atheris, which must be installed, the search is guided by coverage; without it, the seeds are mutated at random.
An input that breaks the rule is written to crash-TARGET, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import random
import resource
import struct
import sys
import tempfile
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

try:
    import atheris
except ImportError:
    atheris = None

SLOW = 2.0  # seconds that no input of these sizes may take
MOST = 1 << 17  # bytes of an input
MOST_MESSAGE = 1000  # characters
TEMPORARY = tempfile.TemporaryDirectory(prefix="gpt2rt-fuzz-")
FOLDER = pathlib.Path(TEMPORARY.name)


def import_readers():
    """Import what is fuzzed; with atheris, so that its coverage is seen."""
    with atheris.instrument_imports(include=["gpt2rt"]) if atheris else contextlib.nullcontext():
        import gpt2rt.converter
        import gpt2rt.jobs.requests
        import gpt2rt.jobs.source
        import gpt2rt.serve.requests
        import gpt2rt.transcript  # noqa: F401


# --- targets: (what takes an input, its seeds)


def small_folder():
    """Return {name: content} of a small Hugging Face folder in which everything is sound."""
    import checkpoints
    from hf_folder import named, tensors_of, write_folder

    checkpoint, folder = FOLDER / "checkpoint", FOLDER / "folder"
    if not folder.exists():
        checkpoint.mkdir()
        checkpoints.write_checkpoint(checkpoint)
        write_folder(folder, checkpoint)
        import pytorch_files
        import safetensors.numpy

        tensors = named(tensors_of())
        (folder / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
        storages = pytorch_files.Storages()
        pytorch_files.write_zip(FOLDER / "small.bin", storages.state(tensors), storages)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(source):
    """Read the vocabulary and two tensors of a source."""
    vocabulary = source.vocabulary()
    vocabulary.section()
    for name in ("wpe", "h0/ln_1/g"):
        source.tensor(name)


def in_folder(replaced, **more):
    """Return a function that reads a Hugging Face folder with `replaced` as its input, besides `more`."""
    from gpt2rt.converter.huggingface import HuggingFaceFolder

    folder = FOLDER / f"with-{replaced}"
    folder.mkdir(exist_ok=True)
    for name, content in {**small_folder(), **more}.items():
        (folder / name).write_bytes(content)

    def take(data):
        (folder / replaced).write_bytes(data)
        read_all(HuggingFaceFolder(folder))

    return take


def config_json():
    return in_folder("config.json"), [small_folder()["config.json"]]


def safetensors_file():
    return in_folder("model.safetensors"), [small_folder()["model.safetensors"]]


def merges_txt():
    return in_folder("merges.txt"), [small_folder()["merges.txt"]]


def tokenizer_json():
    vocabulary = json.loads(small_folder()["vocab.json"])
    merges = small_folder()["merges.txt"].decode().splitlines()[1:]
    added = [{"id": max(vocabulary.values()), "content": "<|endoftext|>", "special": True}]
    document = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "decoder": {"type": "ByteLevel"},
    }
    return in_folder("tokenizer.json"), [json.dumps(document).encode()]


def tokenizer_config():
    document = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|endoftext|>"},
        "chat_template": "{{ messages }}",
    }
    document["added_tokens_decoder"] = {"300": {"content": "<|endoftext|>", "special": True}}
    return in_folder("tokenizer_config.json"), [json.dumps(document).encode()]


def pytorch_zip():
    import pytorch_files

    from gpt2rt.converter.pytorch import read_pytorch

    return one_file(read_pytorch, "small.bin"), [pytorch_files.small_file(FOLDER / "zip").read_bytes()]


def pytorch_legacy():
    import pytorch_files

    from gpt2rt.converter.pytorch import read_pytorch

    return one_file(read_pytorch, "old.bin"), [pytorch_files.small_file(FOLDER / "old", True).read_bytes()]


def pickle():
    """A pickle in a sound archive: its length and checksum would stop the fuzzer."""
    import pytorch_files

    from gpt2rt.converter.pytorch import read_pytorch

    path = FOLDER / "pickle.bin"
    storages = pytorch_files.Storages()
    seed = pytorch_files.pickled(storages.state(pytorch_files.ARRAYS))

    def take(data):
        pytorch_files.write_zip(path, data, storages)
        read_pytorch(path)

    return take, [seed]


def tensorflow_index():
    """The index of a TensorFlow checkpoint; a first byte below 128 repairs the checksum of its blocks."""
    from gpt2rt._modelfile import crc32c
    from gpt2rt.converter.checkpoint_index import read_index

    small_folder()
    path = next((FOLDER / "checkpoint").glob("*.index"))
    take_file = one_file(read_index, "x.index")

    def take(data):
        content = bytearray(data[1:])
        if data[:1] < b"\x80" and len(content) > 100:
            footer = len(content) - 48
            position = footer
            for _ in range(2):  # the blocks that the footer names, as they are in the seed
                numbers, position = varints(content, position)
                begin, size = numbers
                end = begin + size + 1
                if end + 4 <= footer:
                    checksum = crc32c(bytes(content[begin:end]))
                    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
                    content[end : end + 4] = struct.pack("<I", masked)
        take_file(bytes(content))

    return take, [b"\0" + path.read_bytes()]


def varints(content, position):
    """Return two varints and the position after them."""
    found = []
    for _ in range(2):
        value = shift = 0
        while position < len(content):
            byte = content[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 28:
                break
        found.append(value)
    return found, position


def gguf_file():
    import gguf
    import numpy as np

    from gpt2rt.converter.gguf import GgufFile

    path = FOLDER / "seed.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_token_list(["a", "b", "<|endoftext|>"])
    writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return one_file(lambda path: read_all(GgufFile(path)), "x.gguf"), [path.read_bytes()]


def one_file(read, name):
    """Return a function that reads a file of its input's content."""
    path = FOLDER / name

    def take(data):
        path.write_bytes(data)
        read(path)

    return take


def transcript():
    from conversations import open_byte_model

    from gpt2rt.chat import Conversation
    from gpt2rt.transcript import load_transcript, save_transcript

    conversation = Conversation(open_byte_model(FOLDER, 128), max_tokens=4, seed=1, opening="")
    str(conversation.say("Hello").text)
    path = FOLDER / "talk.json"
    save_transcript(conversation, str(path))
    return one_file(lambda path: load_transcript(conversation, str(path)), "x.json"), [path.read_bytes()]


def server_body():
    from gpt2rt.serve.requests import ChatRequest, CompletionRequest, read_request

    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stop": ["x"], "logit_bias": {"5": -1}}
    texts = {"model": "m", "prompt": "Hi", "max_tokens": 3, "temperature": 0.5, "stream": True, "n": 2, "seed": 1}

    def take(data):
        for kind in (ChatRequest, CompletionRequest):
            for is_lenient in (False, True):
                ignoring_own(lambda kind=kind, is_lenient=is_lenient: read_request(data, kind, is_lenient))

    return take, [json.dumps(chat).encode(), json.dumps(texts).encode()]


def batch_file():
    from gpt2rt.jobs.row import RowError, parsed
    from gpt2rt.jobs.source import Source

    path = FOLDER / "rows.jsonl"
    rows = [{"id": "a", "prompt": "Hi"}, {"custom_id": 1, "method": "POST", "url": "/v1/completions", "body": {}}]

    def take(data):
        path.write_bytes(data)
        source = Source(str(path), id_field="id")
        survey = source.survey("prompt")
        for shard in source.shards(survey, 2, lambda _: True):
            for row in shard.rows:
                with contextlib.suppress(RowError):
                    parsed(row.content)

    return take, ["\n".join(map(json.dumps, rows)).encode()]


TARGETS = {
    "batch": batch_file,
    "config": config_json,
    "gguf": gguf_file,
    "merges": merges_txt,
    "pickle": pickle,
    "pytorch": pytorch_zip,
    "pytorch_legacy": pytorch_legacy,
    "safetensors": safetensors_file,
    "server_body": server_body,
    "tensorflow_index": tensorflow_index,
    "tokenizer_json": tokenizer_json,
    "tokenizer_config": tokenizer_config,
    "transcript": transcript,
}


# --- running


def ignoring_own(take):
    """Run a function; gpt2rt's own exceptions are what may come out of it."""
    from gpt2rt.errors import Gpt2rtError
    from gpt2rt.serve.api_error import ApiError

    try:
        take()
    except (Gpt2rtError, ApiError) as error:
        if len(str(error)) > MOST_MESSAGE:
            raise RuntimeError(f"a message of {len(str(error))} characters") from None


def checked(name, take):
    """Return a function that takes an input, and ends the program after one that breaks the rule."""

    def one_input(data):
        begin = time.monotonic()
        try:
            ignoring_own(lambda: take(data))
            taken = time.monotonic() - begin
            assert taken < SLOW, f"{taken:.1f} s for {len(data)} bytes"
        except BaseException:
            pathlib.Path(f"crash-{name}").write_bytes(data)
            traceback.print_exc()
            print(f"crash: the input is in crash-{name}", flush=True)
            raise SystemExit(1) from None

    return one_input


def mutated(draw, seeds):
    """Return a seed with a few changes: bytes, numbers, parts that are repeated or left out, and a cut."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at, n = draw.randrange(len(content) + 1), min(draw.choice((1, 2, 4, 8, 64, 1000)), len(content))
        kind = draw.randrange(7)
        if kind == 0 and content:
            content[at - 1] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[at : at + n] = b""
        elif kind == 2:
            content[at:at] = content[at - n : at]
        elif kind == 3:
            other = draw.choice(seeds)
            begin = draw.randrange(len(other) + 1)
            content[at : at + n] = other[begin : begin + n]
        elif kind == 4:
            content[at : at + 1] = draw.choice(
                (b"0", b"-1", b"1e999", b"null", b'"', b"{", b"[", b"\xff", b"9" * 30, b"\\ud800")
            )
        elif kind == 5:
            number = draw.choice((0, 1, -1, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 63) - 1))
            size = draw.choice((2, 4, 8))
            content[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif draw.random() < 0.1:
            del content[at:]
    return bytes(content[:MOST])


def replay(one_input, folder):
    """Run the inputs of a folder; return their number."""
    paths = sorted(folder.iterdir()) if folder.exists() else []
    for path in paths:
        one_input(path.read_bytes())
    return len(paths)


def at_random(one_input, seeds, options):
    """Run mutated seeds; return their number."""
    draw = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    n = 0
    while n < options.inputs and time.monotonic() < end:
        one_input(mutated(draw, seeds))
        n += 1
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=pathlib.Path, help="a folder of inputs, to which atheris adds")
    parser.add_argument("--input", type=pathlib.Path, help="run this file alone")
    parser.add_argument("--no-atheris", action="store_true")
    options = parser.parse_args()
    global atheris  # noqa: PLW0603
    if options.no_atheris or options.input:
        atheris = None
    import_readers()
    take, seeds = TARGETS[options.target]()
    one_input = checked(options.target, take)
    if options.input:
        one_input(options.input.read_bytes())
        return
    if atheris is None:
        n = len(seeds) + (replay(one_input, options.corpus) if options.corpus else 0)
        for seed in seeds:
            one_input(seed)
        n += at_random(one_input, seeds, options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{options.target}: {n} inputs, peak {peak} MB", flush=True)
        return
    corpus = options.corpus or FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        (corpus / f"seed-{i:02}").write_bytes(seed)
    limits = [
        f"-runs={options.inputs}",
        f"-max_total_time={options.seconds:.0f}",
        f"-max_len={MOST}",
        f"-seed={options.seed}",
    ]
    atheris.Setup([sys.argv[0], *limits, "-len_control=0", "-print_final_stats=1", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
