/* How many columns of a terminal a character takes: 0 for marks that combine and what is invisible, 2 for wide East
 * Asian characters and emoji, else 1.
 *
 * The table is short, of whole blocks and common scripts. Marks of Indic scripts count 1, as do most emoji before
 * U+1F300; each part of a joined emoji counts. */
#ifndef GPT2RT_WIDTH_H
#define GPT2RT_WIDTH_H

#include <stddef.h>
#include <stdint.h>

/* Returns the columns of the character at p. OUT: size, its bytes. */
static inline int character_width(const char *p, size_t *size) {
    static const struct { uint32_t first, last; int width; } unusual[] = {
        {0x0300, 0x036F, 0},   {0x0483, 0x0489, 0},   {0x0591, 0x05BD, 0},   {0x0610, 0x061A, 0},   {0x064B, 0x065F, 0},
        {0x0E31, 0x0E31, 0},   {0x0E34, 0x0E3A, 0},   {0x0E47, 0x0E4E, 0},   {0x1100, 0x115F, 2},   {0x1160, 0x11FF, 0},
        {0x1AB0, 0x1AFF, 0},   {0x1DC0, 0x1DFF, 0},   {0x200B, 0x200F, 0},   {0x202A, 0x202E, 0},   {0x2060, 0x206F, 0},
        {0x20D0, 0x20F0, 0},   {0x2705, 0x2705, 2},   {0x274C, 0x274C, 2},   {0x2753, 0x2757, 2},   {0x2B50, 0x2B50, 2},
        {0x2E80, 0x3029, 2},   {0x302A, 0x302D, 0},   {0x302E, 0x303E, 2},   {0x3041, 0x3098, 2},   {0x3099, 0x309A, 0},
        {0x309B, 0x3247, 2},   {0x3250, 0xA4CF, 2},   {0xA960, 0xA97C, 2},   {0xAC00, 0xD7A3, 2},   {0xF900, 0xFAFF, 2},
        {0xFE00, 0xFE0F, 0},   {0xFE20, 0xFE2F, 0},   {0xFE30, 0xFE6B, 2},   {0xFEFF, 0xFEFF, 0},   {0xFF01, 0xFF60, 2},
        {0xFFE0, 0xFFE6, 2},   {0x1F300, 0x1F64F, 2}, {0x1F680, 0x1F6FF, 2}, {0x1F900, 0x1FAFF, 2},
        {0x20000, 0x3FFFF, 2}};
    uint32_t c = (unsigned char)*p;
    const size_t n = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (n > 1) c &= 0x7Fu >> n;
    for (*size = 1; *size < n && (p[*size] & 0xC0) == 0x80; ++*size) c = c << 6 | (p[*size] & 0x3F);
    for (size_t i = 0; i < sizeof(unusual) / sizeof(*unusual) && c >= unusual[i].first; i++)
        if (c <= unusual[i].last) return unusual[i].width;
    return 1;
}

#endif
