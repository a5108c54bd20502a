"""What opening a model file must find, in plain Python, written from docs/format.md: the reference of the C core."""

import itertools
import struct

SIZES = {"n_vocab": 1 << 20, "n_ctx": 1 << 16, "n_embd": 1 << 14, "n_head": 1 << 10, "n_layer": 1 << 10}
TYPES = ("f32", "f16", "int8", "int4")
GROUP_SIZES = (16, 32, 64, 128, 256)
MAGIC = b"\x89GPT2RT\n"


def remainder(value, bits):
    """Return the reflected polynomial's remainder of a value followed by so many zero bits."""
    for _ in range(bits):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


BYTES = [remainder(byte, 8) for byte in range(256)]


def crc32c(content):
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ BYTES[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def aligned(n, to):
    return -(-n // to) * to


def tile_length(weight_type, group_size, n_in):
    """Return the bytes of 16 rows of a matrix."""
    if weight_type in ("f32", "f16"):
        return aligned(n_in * 16 * (4 if weight_type == "f32" else 2), 64)
    n_groups = -(-n_in // group_size)
    return aligned(n_groups * 16 * 2, 64) + n_groups * group_size * (16 if weight_type == "int8" else 8)


def tensors(sizes, weight_type, group_size, is_tied):
    """Return (name, shape, is_matrix, offset, length) of each tensor."""
    n_vocab, n_ctx, n, _, n_layer = sizes
    layer = (
        *(("ln_1/g", n), ("ln_1/b", n), ("attn/c_attn/w", 3 * n, n), ("attn/c_attn/b", 3 * n)),
        *(("attn/c_proj/w", n, n), ("attn/c_proj/b", n), ("ln_2/g", n), ("ln_2/b", n)),
        *(("mlp/c_fc/w", 4 * n, n), ("mlp/c_fc/b", 4 * n), ("mlp/c_proj/w", n, 4 * n), ("mlp/c_proj/b", n)),
    )
    names = [("wpe", n_ctx, n)]
    names += [(f"h{i}/{name}", *shape) for i in range(n_layer) for name, *shape in layer]
    names += [("ln_f/g", n), ("ln_f/b", n), ("wte", n_vocab, n)] + [("lm_head", n_vocab, n)] * (not is_tied)
    lengths = []
    for name, *shape in names:
        if len(shape) == 1 or name == "wpe":
            lengths.append(aligned(4 * shape[0] * (shape[1] if name == "wpe" else 1), 64))
        else:
            lengths.append(-(-shape[0] // 16) * tile_length(weight_type, group_size, shape[1]))
    offsets = itertools.accumulate(lengths, initial=0)
    return [
        (name, tuple(shape), len(shape) == 2 and name != "wpe", offset, length)
        for (name, *shape), offset, length in zip(names, offsets, lengths, strict=False)
    ]


def vocabulary_length(n_vocab, n_slots, n_special, n_token_bytes, n_controls):
    end = 64
    for length in (4 * (n_vocab + 1), 4 * 256, 4 * n_special, 4 * n_controls, 16 * n_slots, n_token_bytes):
        end = aligned(end, 64) + length
    return end


def problem(content):
    """Return what is wrong with a file, or None."""
    size = len(content)
    if size < 4096:
        if not size or not MAGIC.startswith(content[:8]):
            return f"not a gpt2rt model file (it is {size} bytes long and starts with {content[:8]!r})"
        return f"{size} bytes, expected a header of 4096 (truncated? copy or convert again)"
    magic, version, header_size, file_size, *numbers = struct.unpack_from("<8sIIQIIIIIIII", content)
    *sizes, type_code, group_size, flags = numbers
    if magic != MAGIC:
        return f"not a gpt2rt model file (it starts with {magic!r}, expected {MAGIC!r})"
    if version not in (1, 2):
        hint = "install a newer gpt2rt" if version > 2 else "convert the checkpoint again"
        return f"format version {version}, this gpt2rt reads versions 1 and 2 ({hint})"
    stored, actual = *struct.unpack_from("<I", content, 4092), crc32c(content[:4092])
    if stored != actual:
        return f"the header is damaged: checksum {actual:08x}, expected {stored:08x} (copy or convert again)"
    if header_size != 4096 or flags not in (0, 1):
        return f"header size {header_size} and flags {flags:#x}, expected 4096 and 0 or 1"
    if file_size != size:
        hint = "truncated download?" if size < file_size else "something was appended?"
        return f"{size} bytes, expected {file_size} from its header ({hint})"
    for (name, limit), value in zip(SIZES.items(), sizes, strict=True):
        if not 1 <= value <= limit:
            return f"{name} is {value}, expected 1 to {limit}"
    n_vocab, n_ctx, n_embd, n_head, n_layer = sizes
    if n_embd % n_head:
        return f"n_embd is {n_embd}, expected a multiple of n_head, which is {n_head}"
    if type_code > 3:
        return f"weight type {type_code}, expected one of 0 to 3"
    if type_code >= 2 and group_size not in GROUP_SIZES:
        return f"group size {group_size}, expected one of {GROUP_SIZES}"
    if type_code < 2 and group_size:
        return f"group size {group_size}, expected 0 for {TYPES[type_code]}"
    lengths, offsets, end = [], [], 0
    for i, name in enumerate(("metadata", "vocabulary", "weights")):
        offset, length, _, reserved = struct.unpack_from("<QQII", content, 64 + 24 * i)
        expected = aligned(end, 4096) if i else 4096
        if offset != expected or reserved:
            return f"section {name!r} starts at byte {offset}, expected {expected}"
        end = offset + length
        if end > size:
            return f"section {name!r} ends at byte {end}, but the file has {size}"
        offsets.append(offset)
        lengths.append(length)
    if end != size:
        return f"{size - end} bytes after the last section, expected 0"
    if lengths[0] > 1 << 20:
        return f"metadata of {lengths[0]} bytes, expected at most {1 << 20}"
    if lengths[1] < 64:
        return f"section 'vocabulary' has {lengths[1]} bytes, expected at least 64"
    n_merges, n_slots, n_special, n_token_bytes, n_controls = struct.unpack_from("<5I", content, offsets[1])
    slots = 16
    while slots < 2 * n_merges:
        slots *= 2
    if n_merges > n_vocab or n_special > n_vocab or n_slots != slots or n_token_bytes > 1 << 28:
        return (
            f"invalid vocabulary header for {n_vocab} tokens: {n_merges} merges in {n_slots} slots, {n_special} special"
            f" tokens and {n_token_bytes} bytes"
        )
    if n_controls and (version == 1 or not 3 <= n_controls <= 19):
        return f"invalid vocabulary header: {n_controls} controls in a file of version {version}"
    length = vocabulary_length(n_vocab, n_slots, n_special, n_token_bytes, n_controls)
    if length != lengths[1]:
        return f"section 'vocabulary' has {lengths[1]} bytes, expected {length}"
    weight_type = TYPES[type_code]
    *_, (_, _, _, offset, length) = tensors(sizes, weight_type, group_size, not flags)
    if offset + length != lengths[2]:
        return (
            f"section 'weights' has {lengths[2]} bytes, expected {offset + length} for {weight_type}, n_vocab"
            f" {n_vocab}, n_ctx {n_ctx}, n_embd {n_embd} and n_layer {n_layer}"
        )
    return None
