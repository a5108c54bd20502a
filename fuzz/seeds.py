"""Write the seeds of the C targets: `python fuzz/seeds.py FOLDER` fills FOLDER/TARGET.

A seed is a sound input in the form that its target reads; the fuzzer makes the others from it.
"""

import json
import pathlib
import struct
import sys

MAGIC = b"\x89GPT2RT\n"
N_SLOTS = 16
TYPES = {"f32": (0, 0), "f16": (1, 0), "int8": (2, 16), "int4": (3, 32)}
CHATS = {
    "plain": {"format": "plain", "user_name": "Ann", "bot_name": "Bob", "opening": "A talk.\nAnn: Hi\nBob: Hello!"},
    "template": {"format": "template", "template": "<u>{user}<b>{bot}<e>", "opening_template": "[{opening}]"},
    "dialogpt": {"format": "dialogpt", "opening": "Hi\r\nHello"},
    "raw": {"format": "raw", "opening": ""},
}
LOGITS = struct.pack("<6f", 1.5, -2.0, float("inf"), float("-inf"), float("nan"), 3e38)


def aligned(content, alignment=64):
    return content + bytes(-len(content) % alignment)


def vocabulary(n_special=1, controls=(0, 256, 0xFFFFFFFF, 256)):
    """Return the section of a vocabulary of the bytes and special tokens, without merges."""
    texts = [bytes([byte]) for byte in range(256)] + [b"<|endoftext|>", b"<u>"][:n_special]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    tables = [
        struct.pack(f"<{len(offsets)}I", *offsets),
        struct.pack("<256I", *range(256)),
        struct.pack(f"<{n_special}I", *range(256, 256 + n_special)),
        struct.pack(f"<{len(controls)}I", *controls),
        b"\xff" * 16 * N_SLOTS,
    ]
    counts = struct.pack("<5I", 0, N_SLOTS, n_special, offsets[-1], len(controls))
    return b"".join(map(aligned, [counts, *tables])) + b"".join(texts)


def model_file(metadata, weight_type, n_ctx=32, n_embd=8, n_head=2, n_layer=1, flags=0, how=0, version=2):
    kind, group = TYPES[weight_type]
    header = MAGIC + struct.pack("<IIQ", version, 4096, 0)
    header += struct.pack("<8I", 257, n_ctx, n_embd, n_head, n_layer, kind, group, flags)
    header += bytes(8) + struct.pack("<QQII", 0, 0, 0, 0) * 3
    section = vocabulary(controls=() if version == 1 else (0, 256, 0xFFFFFFFF, 256))
    weights = struct.pack("<8f", 0.5, -0.25, 1, -1, 0.1, 0.03, -0.7, 0.2)
    lengths = struct.pack("<BBHHH", 0, how, 0, len(metadata), len(section))
    return lengths + header + metadata + section + weights


def modelfile_seeds():
    for i, weight_type in enumerate(TYPES):
        yield model_file(json.dumps({"name": "m"}).encode(), weight_type, how=16 + i)
        yield model_file(b"{}", weight_type, n_ctx=70, n_embd=20, n_head=5, n_layer=2, flags=1, how=i, version=1)
    for name, chat in CHATS.items():
        yield model_file(json.dumps({"name": name, "chat": chat}).encode(), "int8", n_ctx=200)


def text(content, width=1):
    """Return a text after its length."""
    return len(content).to_bytes(width, "little") + content


def chat_seeds():
    messages = [
        b"Hello there",
        b"What is your name? My name is Zo\xc3\xab.",
        b"  aa\taa ",
        b"<|user|> hi: \xe6\x97\xa5",
    ]
    names = ["format", "user_name", "bot_name", "opening", "template", "opening_template"]
    for i, (name, chat) in enumerate(CHATS.items()):
        there = sum(1 << names.index(key) for key in chat)
        settings = bytes([there, ["plain", "dialogpt", "template", "raw"].index(name)])
        for key in names[1:]:
            if key in chat:
                settings += text(chat[key].encode(), 2 if key == "opening" else 1)
        talk = b""
        for message in messages:
            tokens = b"".join(struct.pack("<H", letter) for letter in b" So am I: yes!\nAnn: ")
            talk += text(message) + struct.pack("<H", 20) + bytes([i]) + bytes([15]) + tokens
        yield bytes([0, 200]) + settings + bytes(2) + talk
        yield bytes([2 + 16 * i, 63]) + settings + bytes(2) + talk


def tokenizer_seeds():
    texts = [
        b"Hello there, the thing I'd tether: 123 aaaaa ababab\n\n\n\t x",
        "naïve 日本語 😀 <|user|><|bot|><|endoftext|> don't".encode(),
        b"\xff\xe6\x97 \xc3",
        b"a" * 70,
    ]
    for content in texts:
        for how in (0, 2, 4 + 48, 8 + 16, 128):
            yield bytes([how]) + content
        yield bytes([1, 2]) + bytes([0, 1, 40, 0]) + struct.pack("<I", 200) + bytes([4, 2, 9, 0, 0, 1, 0, 0]) + content


def stream_seeds():
    for stops in ([], [b"\n"], [b"abab", b"ab", b"Sam:"], [b"aaa", b"a", b"aab", b"b", b"\xe6\x97", b"aaaaaaaaaaaaaa"]):
        head = bytes([len(stops)])
        for i, stop in enumerate(stops):
            head += text(stop, 2 if i == 5 else 1)
        for content in (
            b"Hello ababa Sam: x\n",
            "日本語 😀é".encode(),
            b"\xf0\x9f\x98\xe6\xed\xa0\x80\xed\xa0a\xc3",
            b"aaaab" * 4,
        ):
            parts = b"".join(text(content[i : i + 3]) for i in range(0, len(content), 3))
            yield head + bytes([0, 255, 255]) + parts
            yield head + bytes([4, 7, 5]) + parts


def sampler_seeds():
    for content in (
        LOGITS,
        bytes([0]) + bytes(range(0, 250, 10)),
        bytes([2]) + b"\x01\xff\x20",
        bytes([1]) + LOGITS[:8],
    ):
        yield struct.pack("<HBB", 20, 8, 2) + bytes(60) + content
        reals = b"\x00\x01\x00\x01" + bytes([10]) + b"\x08\x20" + b"\x08\x02" + bytes([40, 2])
        yield struct.pack("<HBB", 130, 12, 1) + reals * 3 + content


def json_seeds():
    yield json.dumps({"name": "m", "chat": CHATS["plain"], "a": [1, -2.5e3, True, None, {"": ""}]}).encode()
    yield rb'{"ch\u0061t": {"format": "\ud83d\ude00 \ud83d \n\"\\\/\b\f\r\t"}, "a": [NaN, -Infinity, 0.1E+2], "a": {}}'
    yield b"[" * 70 + b"]" * 70
    yield ' "caf\u00e9 \u65e5 \U0001f600" '.encode()


def carried_seeds():
    for n in (0, 65536, 200000):
        for how in (15, 0):
            trailer = b"GPT2RTEX" + struct.pack("<QQQ", 1 if how else 65536, 0, 0)
            yield bytes([how]) + struct.pack("<I", n) + b"model" * 8 + trailer


SEEDS = {
    "modelfile": modelfile_seeds,
    "chat": chat_seeds,
    "tokenizer": tokenizer_seeds,
    "stream": stream_seeds,
    "sampler": sampler_seeds,
    "json": json_seeds,
    "carried": carried_seeds,
}


def write_seeds(folder, target):
    """Write the seeds of a target into a folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(SEEDS[target]()):
        (folder / f"seed-{i:02}").write_bytes(seed)


if __name__ == "__main__":
    for name in SEEDS:
        write_seeds(pathlib.Path(sys.argv[1]) / name, name)
