"""Parts of a network that a pass can leave out: heads and layers."""

from __future__ import annotations

from collections.abc import Iterable

from gpt2rt.errors import UsageError
from gpt2rt.modelfile import Hyperparameters

Part = tuple[int, int | None]  # (layer, head); None stands for the whole layer


def checked_part(part: object, shape: Hyperparameters) -> Part:
    """Return (layer, head or None). Raises UsageError if there is no such part."""
    if isinstance(part, int) and not isinstance(part, bool):
        part = (part, None)
    if not (isinstance(part, tuple | list) and len(part) == 2 and all(map(_is_index, part)) and part[0] is not None):
        raise UsageError(f"ablate: got {part!r:.80}, expected (layer, head), or a layer")
    layer, head = part
    if not 0 <= layer < shape.n_layer:
        raise UsageError(f"layer {layer}: unknown, the model has layers 0 to {shape.n_layer - 1}")
    if head is not None and not 0 <= head < shape.n_head:
        raise UsageError(f"head {head}: unknown, the model has heads 0 to {shape.n_head - 1}")
    return layer, head


def _is_index(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def mask_of(parts: Iterable[object], shape: Hyperparameters) -> bytes:
    """Return the engine's mask, (n_layer, n_head + 1) bytes. Raises UsageError if a part does not exist."""
    mask = bytearray(shape.n_layer * (shape.n_head + 1))
    for part in parts:
        layer, head = checked_part(part, shape)
        mask[layer * (shape.n_head + 1) + (shape.n_head if head is None else head)] = 1
    return bytes(mask)


def part_name(part: Part) -> str:
    """Return a part's name: L3.H5, or L3 for a layer."""
    layer, head = part
    return f"L{layer}" if head is None else f"L{layer}.H{head}"
