"""Write the tables of Unicode 16.0: unicode.h, the classes of code points in GPT-2's pattern; casefold.h; printable.h.

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

CASEFOLD_HEADER = """\
/* Full case folding, Unicode {version}: str.casefold.
   Written by make_unicode.py. Code points that fold to one other are in ranges with a step and a difference. */
#ifndef GPT2RT_CASEFOLD_H
#define GPT2RT_CASEFOLD_H

#include <stdint.h>

#define CASEFOLD_MOST 3 /* code points that one folds to */

typedef struct {{
    uint32_t first, last;
    int32_t step, difference;
}} FoldedRange;

static const FoldedRange FOLDED_RANGES[{n_ranges}] = {{ /* ascending */
{ranges}
}};

static const uint16_t FOLDED_TO_SEVERAL[{n_several}][1 + CASEFOLD_MOST] = {{ /* ascending; ended by 0 */
{several}
}};

/* Folds a code point. Returns the number of code points that this gives. OUT: folded. */
static inline int unicode_casefold(uint32_t c, uint32_t folded[CASEFOLD_MOST]) {{
    int low = 0, high = {n_ranges};
    folded[0] = c;
    while (low < high) {{ /* the first range that ends at c or later */
        const int middle = (low + high) / 2;
        if (FOLDED_RANGES[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }}
    if (low < {n_ranges}) {{
        const FoldedRange *range = &FOLDED_RANGES[low];
        if (range->first <= c && (c - range->first) % (uint32_t)range->step == 0)
            return folded[0] = (uint32_t)((int32_t)c + range->difference), 1;
    }}
    for (low = 0, high = {n_several}; low < high;) {{
        const int middle = (low + high) / 2;
        if (FOLDED_TO_SEVERAL[middle][0] < c)
            low = middle + 1;
        else
            high = middle;
    }}
    if (low == {n_several} || FOLDED_TO_SEVERAL[low][0] != c) return 1;
    int n = 0;
    for (; n < CASEFOLD_MOST && FOLDED_TO_SEVERAL[low][1 + n]; n++) folded[n] = FOLDED_TO_SEVERAL[low][1 + n];
    return n;
}}

#endif
"""

PRINTABLE_HEADER = """\
/* Characters that a terminal does not print, or not visibly, Unicode {version}: str.isprintable.
   Written by make_unicode.py. Runs of printable code points and of others alternate; each has its length, in groups of
   seven bits, the lowest first, of which all but the last have bit 7 set. */
#ifndef GPT2RT_PRINTABLE_H
#define GPT2RT_PRINTABLE_H

#include <stdint.h>

static const uint8_t PRINTABLE_RUNS[{n}] = {{
{runs}
}};

static inline int unicode_is_printable(uint32_t c) {{
    uint32_t end = 0, length = 0;
    int is_run_printable = 1, shift = 0;
    for (unsigned i = 0; i < sizeof(PRINTABLE_RUNS); i++) {{
        length |= (PRINTABLE_RUNS[i] & 0x7Fu) << shift;
        shift += 7;
        if (PRINTABLE_RUNS[i] & 0x80) continue;
        end += length;
        if (c < end) return is_run_printable;
        is_run_printable = !is_run_printable, length = 0, shift = 0;
    }}
    return 0; /* beyond Unicode */
}}

#endif
"""

# Case foldings that this version has and Python 3.11, which has Unicode 14, does not.
NEW_FOLDINGS = {
    **{0x1C89: 0x1C8A, 0xA7CB: 0x0264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x019B},
    **{c: c + 32 for c in range(0x10D50, 0x10D66)},
}


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


def rows(values: Iterable[int | str]) -> str:
    """Format numbers, or other elements of an array, as lines of C."""
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


def folded(c: int) -> list[int]:
    """Return what a code point folds to."""
    return [NEW_FOLDINGS[c]] if c in NEW_FOLDINGS else [ord(one) for one in chr(c).casefold()]


def casefold_header() -> str:
    """Return the text of casefold.h."""
    unicode_data()
    foldings = [(c, folded(c)) for c in range(0x110000)]
    ranges: list[list[int]] = []  # [first, last, step, difference]
    for c, (first, *more) in foldings:
        if more or first == c:
            continue
        if ranges and ranges[-1][3] == first - c:
            begin, last, step, _ = ranges[-1]
            if c - last == step or (begin == last and c - last <= 2):
                ranges[-1][1:3] = c, c - last
                continue
        ranges.append([c, c, 1, first - c])
    several = [[c, *to, *[0] * (3 - len(to))] for c, to in foldings if len(to) > 1]
    return CASEFOLD_HEADER.format(
        version=VERSION,
        n_ranges=len(ranges),
        ranges=rows(f"{{{', '.join(map(str, one))}}}" for one in ranges),
        n_several=len(several),
        several=rows(f"{{{', '.join(map(str, one))}}}" for one in several),
    )


def printable_header() -> str:
    """Return the text of printable.h."""
    category = unicode_data().category
    runs, is_run_printable = [0], True
    for c in range(0x110000):
        is_printable = c == ord(" ") or category(chr(c))[0] not in "CZ"
        if is_printable != is_run_printable:
            runs.append(0)
            is_run_printable = is_printable
        runs[-1] += 1
    content = []
    for run in runs:
        rest = run
        while rest >> 7:
            content.append(rest & 0x7F | 0x80)
            rest >>= 7
        content.append(rest)
    return PRINTABLE_HEADER.format(version=VERSION, n=len(content), runs=rows(content))


HEADERS = {"unicode.h": unicode_header, "casefold.h": casefold_header, "printable.h": printable_header}

if __name__ == "__main__":
    for name, header in HEADERS.items():
        pathlib.Path(__file__).with_name(name).write_text(header(), encoding="ascii", newline="\n")
