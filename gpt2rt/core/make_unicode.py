"""Write unicode.h: the classes of code points in GPT-2's pattern, from Unicode 16.0.

Run `python gpt2rt/core/make_unicode.py` with a `unicodedata`, or a package `unicodedata2`, of that version (Python
3.14, or `pip install unicodedata2==16.0.0`). With another version, text that contains code points added since would be
split differently from the published tokenizers, which use this version.
"""

import importlib
import pathlib
from collections.abc import Iterable, Sequence
from types import ModuleType

VERSION = "16.0.0"
OTHER, LETTER, NUMBER, SPACE = range(4)
COLUMNS = 120

HEADER = """\
/* Classes of code points, Unicode {version}: what \\p{{L}}, \\p{{N}} and \\s of GPT-2's pattern match.
   Written by make_unicode.py. A class has two bits, so {block} code points are a block of {size} bytes;
   equal blocks are stored once. */
#ifndef GPT2RT_UNICODE_H
#define GPT2RT_UNICODE_H

#include <stdint.h>

enum {{ UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE }};

static const uint8_t unicode_block_of[{n_index}] = {{
{index}
}};

static const uint8_t unicode_classes[{n_blocks} * {size}] = {{
{blocks}
}};

/* The class of a code point; UNICODE_OTHER beyond the tables, and beyond Unicode. */
static inline int unicode_class(uint32_t c) {{
    if (c >> {shift} >= sizeof unicode_block_of) return UNICODE_OTHER;
    uint32_t place = (uint32_t)unicode_block_of[c >> {shift}] << {shift} | (c & {mask});
    return unicode_classes[place >> 2] >> (place & 3) * 2 & 3;
}}

#endif
"""


def unicode_data() -> ModuleType:
    """Return the module with the tables of `VERSION`."""
    for name in ("unicodedata", "unicodedata2"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if module.unidata_version == VERSION:
            return module
    raise SystemExit(f"Unicode {VERSION}: not in unicodedata or unicodedata2 (pip install unicodedata2=={VERSION})")


def class_of(character: str, category: str) -> int:
    """Return the class of a character, by its general category; \\s is Unicode's property White_Space."""
    if category[0] == "L":
        return LETTER
    if category[0] == "N":
        return NUMBER
    if category[0] == "Z" or character in "\t\n\v\f\r\x85":
        return SPACE
    return OTHER


def two_stages(classes: Sequence[int], shift: int) -> tuple[list[int], list[bytes]]:
    """Return (block numbers, blocks as bytes of four classes) for blocks of 1 << shift code points."""
    block = 1 << shift
    blocks: dict[bytes, int] = {}
    index: list[int] = []
    for start in range(0, len(classes), block):
        part = classes[start : start + block]
        packed = bytes(sum(part[i + j] << 2 * j for j in range(4)) for i in range(0, block, 4))
        index.append(blocks.setdefault(packed, len(blocks)))
    while len(index) > 1 and not any(list(blocks)[index[-1]]):
        index.pop()
    return index, list(blocks)


def rows(values: Iterable[int]) -> str:
    """Format numbers as lines of C."""
    lines = ["   "]
    for value in values:
        text = f" {value},"
        if len(lines[-1]) + len(text) > COLUMNS:
            lines.append("   ")
        lines[-1] += text
    return "\n".join(lines)


def unicode_header() -> str:
    """Return the text of unicode.h."""
    category = unicode_data().category
    classes = [class_of(chr(c), category(chr(c))) for c in range(0x110000)]
    candidates = [(shift, *two_stages(classes, shift)) for shift in range(5, 11)]
    fitting = [candidate for candidate in candidates if len(candidate[2]) <= 256]
    shift, index, blocks = min(fitting, key=lambda c: len(c[1]) + len(c[2]) * len(c[2][0]))
    return HEADER.format(
        version=VERSION,
        block=1 << shift,
        size=len(blocks[0]),
        n_index=len(index),
        index=rows(index),
        n_blocks=len(blocks),
        blocks=rows(b"".join(blocks)),
        shift=shift,
        mask=(1 << shift) - 1,
    )


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("unicode.h").write_text(unicode_header(), encoding="ascii", newline="\n")
