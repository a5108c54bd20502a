"""Fuzz what reads files and requests of others in Python: only gpt2rt's own exceptions come out, in bounded time.

    python fuzz/readers.py TARGET [--seconds N] [--inputs N] [--seed N] [--no-atheris]

With atheris, which must be installed, the search is guided by coverage; without it, the seeds and fuzz/corpus/TARGET
are mutated at random, which takes a fraction of the time. An input that breaks the rule is written to crash-TARGET, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import struct
import sys
import tempfile

FUZZ = pathlib.Path(__file__).parent
CORPUS = FUZZ / "corpus"
sys.path[:0] = [str(FUZZ), str(FUZZ.parent / "tests")]

from search import MOST, MOST_MEMORY, at_random, checked, fewest, ignoring_own, peak_memory  # noqa: E402

try:
    import atheris
except ImportError:
    atheris = None

MOST_CORPUS = 12_000  # bytes of one target's
# In memory, where there is a file system in it: writing a file to a disk takes longer than reading it back.
MEMORY = "/dev/shm"
TEMPORARY = tempfile.TemporaryDirectory(prefix="gpt2rt-fuzz-", dir=MEMORY if os.path.isdir(MEMORY) else None)
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


class InputFile:
    """The file that has one input after the other. It stays open: to create a file takes longer than to write it."""

    def __init__(self, path):
        self.path = path
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (until the program ends)

    def write(self, data):
        """Replace the content; return the path."""
        self._file.seek(0)
        self._file.write(data)
        self._file.truncate()
        return self.path


def one_file(read, name):
    """Return a function that reads a file of its input's content."""
    file = InputFile(FOLDER / name)
    return lambda data: read(file.write(data))


def tiny(n_vocab=277, n_embd=2):
    """Return the hyperparameters of a model that is read quickly."""
    from gpt2rt.modelfile import Hyperparameters

    return Hyperparameters(n_vocab=n_vocab, n_ctx=2, n_embd=n_embd, n_head=1, n_layer=1)


def checkpoint_of(hyperparameters):
    """Return a TensorFlow checkpoint with these hyperparameters."""
    import checkpoints

    folder = FOLDER / f"checkpoint-{hyperparameters.n_vocab}-{hyperparameters.n_embd}"
    if not folder.exists():
        checkpoints.write_checkpoint(folder, hyperparameters)
    return folder


def sound_folder(name, hyperparameters):
    """Return a small Hugging Face folder in which everything is sound; the vocabulary is that of `tiny()`."""
    import checkpoints
    import safetensors.numpy
    from hf_folder import named, write_config, write_folder

    folder = write_folder(FOLDER / name, checkpoint_of(tiny()))
    n_vocab, n_ctx, n_embd, n_head, n_layer = hyperparameters
    write_config(folder, vocab_size=n_vocab, n_positions=n_ctx, n_embd=n_embd, n_head=n_head, n_layer=n_layer)
    arrays = checkpoints.random_tensors(hyperparameters)
    tensors = {name.removeprefix("model/"): array.reshape(array.shape[-2:]) for name, array in arrays.items()}
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(named(tensors)))
    return folder


def read_some(source):
    """Read a tensor of each shape of a source."""
    for name in ("wte", "wpe", "h0/ln_1/g", "h0/attn/c_attn/w"):
        source.tensor(name)


def config_json():
    from gpt2rt.converter.huggingface import HuggingFaceFolder

    folder = sound_folder("config", tiny())
    content = (folder / "config.json").read_bytes()
    file = InputFile(folder / "config.json")

    def take(data):
        file.write(data)
        source = HuggingFaceFolder(folder)
        read_some(source)
        source.vocabulary()

    more = {"tie_word_embeddings": True, "bos_token_id": 276, "eos_token_id": [276, 0], "n_ctx": 2, "n_inner": 8}
    more["task_specific_params"] = {"conversational": {"max_length": 2}}
    return take, [content, json.dumps({**json.loads(content), **more}).encode()]


def safetensors_file():
    """A file, or the header of one in JSON, to which its length and sound values are added."""
    from gpt2rt.converter.huggingface import HuggingFaceFolder

    folder = sound_folder("safetensors", tiny(n_vocab=3))  # its vocabulary is not read
    content = (folder / "model.safetensors").read_bytes()
    file = InputFile(folder / "model.safetensors")
    end = 8 + int.from_bytes(content[:8], "little")

    def take(data):
        is_header = data.startswith(b"{")
        file.write(struct.pack("<Q", len(data)) + data + content[end:] if is_header else data)
        read_some(HuggingFaceFolder(folder))

    return take, [content, content[8:end].rstrip()]


def tokenizer_file(name):
    """Return (a function that reads a folder's tokenizer with its input as one of the files, that file's content)."""
    from gpt2rt.converter.tokenizer_files import chat_settings, chat_template, read_json, read_tokenizer

    folder = sound_folder(f"with-{name}", tiny())
    content = (folder / name).read_bytes() if (folder / name).exists() else b""
    file = InputFile(folder / name)
    config, n_vocab = read_json(folder / "config.json"), tiny().n_vocab

    def take(data):
        file.write(data)
        read_tokenizer(folder, n_vocab, config).tables()
        chat_settings(chat_template(folder), [])

    return take, content


def merges_txt():
    take, content = tokenizer_file("merges.txt")
    return take, [content]


def vocab_json():
    take, content = tokenizer_file("vocab.json")
    return take, [content]


def tokenizer_json():
    folder = sound_folder("tokenizer", tiny())
    vocabulary = json.loads((folder / "vocab.json").read_bytes())
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    end = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [276], "tokens": ["<|endoftext|>"]}}
    parts = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document = {
        "added_tokens": [{"id": 276, "content": "<|endoftext|>", "special": True}],
        "pre_tokenizer": byte_level,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
    template = {"type": "TemplateProcessing", "single": parts, "special_tokens": end}
    other = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_level]},
        "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [merge.split() for merge in merges]},
    }
    take, _ = tokenizer_file("tokenizer.json")
    return take, [json.dumps(document).encode(), json.dumps({**document, **other}).encode()]


def tokenizer_config():
    document = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|endoftext|>"},
        "chat_template": "{{ messages }}",
        "added_tokens_decoder": {"276": {"content": "<|endoftext|>", "special": True}},
    }
    other = {**document, "add_bos_token": True, "add_prefix_space": True, "chat_template": "<|im_start|><|im_end|>"}
    take, _ = tokenizer_file("tokenizer_config.json")
    return take, [json.dumps(document).encode(), json.dumps(other).encode()]


def read_state(path):
    """Read a file of torch.save as weights are read: its tensors, their checksums, and some values."""
    from gpt2rt.converter.pytorch import checked_tensors, read_pytorch
    from gpt2rt.converter.stored_tensor import TYPES

    tensors = checked_tensors(path, read_pytorch(path))
    for name in list(tensors)[:4]:
        if tensors[name].dtype in TYPES:
            tensors[name].values()


def pytorch_zip():
    import pytorch_files

    return one_file(read_state, "small.bin"), [pytorch_files.small_file(FOLDER / "zip").read_bytes()]


def pytorch_legacy():
    import pytorch_files

    return one_file(read_state, "old.bin"), [pytorch_files.small_file(FOLDER / "old", True).read_bytes()]


def pickle():
    """A pickle in a sound archive: its length and checksum would stop the fuzzer."""
    import pytorch_files

    storages = pytorch_files.Storages()
    seed = pytorch_files.pickled(storages.state(pytorch_files.ARRAYS))
    protocol_4 = b"\x80\x04\x95" + struct.pack("<Q", 30) + b"}\x94(\x8c\x01a\x94]\x94(K\x01J\x01\0\0\0G" + bytes(8)
    protocol_4 += b"e\x8c\x01b\x94h\x01\x85\x94\x8c\x01c\x94\x8f\x94(K\x01\x90u."
    read = one_file(read_state, "pickle.bin")
    contents = {f"data/{key}": array.tobytes() for key, array in storages.contents.items()}
    return lambda data: read(archive({**contents, "data.pkl": data})), [seed, protocol_4]


def archive(contents):
    """Return a zip archive of stored records, without checksums, in a fraction of the time that zipfile takes."""
    records, directory = bytearray(), bytearray()
    for name, content in contents.items():
        path = f"archive/{name}".encode()
        sizes = struct.pack("<3I2H", 0, len(content), len(content), len(path), 0)
        directory += b"PK\1\2" + struct.pack("<6H", 20, 20, 0, 0, 0, 0) + sizes
        directory += struct.pack("<3H2I", 0, 0, 0, 0, len(records)) + path
        records += b"PK\3\4" + struct.pack("<5H", 20, 0, 0, 0, 0) + sizes + path + content
    end = struct.pack("<4H2IH", 0, 0, len(contents), len(contents), len(directory), len(records), 0)
    return bytes(records + directory + b"PK\5\6" + end)


def tensorflow_index():
    """The index of a TensorFlow checkpoint; a first byte below 128 repairs the checksum of its blocks."""
    from gpt2rt._modelfile import crc32c
    from gpt2rt.converter.checkpoint_index import read_index

    path = next(checkpoint_of(tiny()).glob("*.index"))
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
    from test_gguf import write_gguf

    from gpt2rt.converter.gguf import GgufFile

    def read(path):
        source = GgufFile(path)
        read_some(source)
        source.vocabulary().tables()

    def more(writer):
        for name in ("bos", "eos", "eot", "padding"):
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", 276)
        writer.add_bool("tokenizer.ggml.add_bos_token", True)
        writer.add_int8("a", -1)
        writer.add_array("b", [1.5, 2.5])
        writer.add_chat_template("{{ messages }}")

    paths = [
        write_gguf(FOLDER / "small.gguf", checkpoint_of(tiny()), tiny(), "F16", edit=more),
        write_gguf(FOLDER / "blocks.gguf", checkpoint_of(tiny(n_embd=32)), tiny(n_embd=32), "Q8_0"),
    ]
    return one_file(read, "x.gguf"), [path.read_bytes() for path in paths]


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

    file = InputFile(FOLDER / "rows.jsonl")
    rows = [{"id": "a", "prompt": "Hi"}, {"custom_id": 1, "method": "POST", "url": "/v1/completions", "body": {}}]

    def take(data):
        source = Source(str(file.write(data)), id_field="id")
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
    "vocab_json": vocab_json,
}


# --- running


def run_at_random(name, take, seeds, grown, options):
    """Run the seeds, the corpus, and mutations of both."""
    for data in [*seeds, *grown]:
        checked(name, take)(data)
    one_input = checked(name, take, peak_memory() + MOST_MEMORY)
    n = len(seeds) + len(grown) + at_random(one_input, seeds, grown, options)
    print(f"{name}: {n} inputs, peak {peak_memory()} MB", flush=True)


def run_atheris(name, take, seeds, options):
    """Search by coverage; this ends the program."""
    found = options.corpus[0] if options.corpus else FOLDER / "corpus"
    for folder in (found, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        (found / f"seed-{i:02}").write_bytes(seed)
    limits = [f"-runs={options.inputs}", f"-max_total_time={options.seconds:.0f}", f"-max_len={MOST}"]
    limits += [f"-seed={options.seed}", "-len_control=0", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *limits, str(found), str(CORPUS / name), *map(str, options.corpus[1:])], checked(name, take)
    )
    atheris.Fuzz()


def minimize(name, take, seeds, grown):
    """Replace the corpus of a target by the smallest inputs that together cover what all do."""
    shutil.rmtree(CORPUS / name, ignore_errors=True)
    (CORPUS / name).mkdir(parents=True)
    for data in fewest(take, seeds, grown, MOST_CORPUS):
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--corpus", type=pathlib.Path, action="append", default=[], help="a folder of inputs; atheris adds to the first"
    )
    parser.add_argument("--input", type=pathlib.Path, help="run this file alone")
    parser.add_argument("--no-atheris", action="store_true", help="mutate at random")
    parser.add_argument("--minimize", action="store_true", help="replace the committed corpus, with that of --corpus")
    options = parser.parse_args()
    global atheris  # noqa: PLW0603
    if options.no_atheris or options.input or options.minimize:
        atheris = None
    import_readers()
    take, seeds = TARGETS[options.target]()
    if options.input:
        checked(options.target, take)(options.input.read_bytes())
    elif atheris is not None:
        run_atheris(options.target, take, seeds, options)
    else:
        folders = [folder for folder in (CORPUS / options.target, *options.corpus) if folder.exists()]
        grown = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
        if options.minimize:
            minimize(options.target, take, seeds, grown)
        else:
            run_at_random(options.target, take, seeds, grown, options)


if __name__ == "__main__":
    main()
