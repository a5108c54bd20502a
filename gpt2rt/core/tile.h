/* The layout of a matrix in memory, in a model file (docs/format.md) and in the KV cache. No other file knows it.
 *
 * A tile holds 16 rows (outputs) of a matrix. In f32 and f16, the 16 values of an input are stored together, (n_in,
 * 16). In int8 and int4, the f16 scales come first, (n_groups, 16), padded to 64 bytes; then the values in lines of 64
 * bytes: a 32-bit word for each row, which holds four inputs in bytes or eight in nibbles. */
#ifndef GPT2RT_TILE_H
#define GPT2RT_TILE_H

#include <stdint.h>
#include <string.h>

#include "half.h"

#define TILE 16      /* rows of a tile */
#define TILE_LINE 64 /* bytes of a line of int8 or int4 */

enum { TYPE_F32, TYPE_F16, TYPE_INT8, TYPE_INT4 }; /* as in the file's header */

typedef struct {
    int type;
    int64_t group;  /* inputs that share a scale; 0 for f32 and f16 */
    int64_t n_in;   /* stored inputs: int8 and int4 are padded to whole groups */
    int64_t values; /* bytes from the start of a tile to its values, after the scales */
    int64_t stride; /* bytes from one tile to the next */
} TileLayout;

/* n rounded up to a multiple of `to`. */
static inline int64_t align(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static inline int is_quantized(int type) { return type == TYPE_INT8 || type == TYPE_INT4; }

/* Bytes of a value of f32 or f16. */
static inline int64_t float_size(int type) { return type == TYPE_F16 ? 2 : 4; }

/* The layout of the tiles of a matrix with n_in inputs. */
static inline TileLayout tile_layout(int type, int64_t n_in, int64_t group) {
    TileLayout layout = {.type = type, .n_in = n_in};
    if (is_quantized(type)) {
        layout.group = group;
        layout.n_in = align(n_in, group);
        layout.values = align(layout.n_in / group * TILE * 2, TILE_LINE);
        layout.stride = layout.values + layout.n_in * (type == TYPE_INT8 ? TILE : TILE / 2);
    } else {
        layout.stride = align(n_in * TILE * float_size(type), TILE_LINE);
    }
    return layout;
}

/* The layout of the tiles of an f32, f16 or int8 matrix whose inputs share one scale, without a division. */
static inline TileLayout tile_layout_one_group(int type, int64_t n_in) {
    if (type != TYPE_INT8) return tile_layout(type, n_in, 0);
    const int64_t n = align(n_in, TILE), values = n ? TILE_LINE : 0;
    return (TileLayout){.type = type, .group = n, .n_in = n, .values = values, .stride = values + n * TILE};
}

/* Inputs in a line of int8 or int4. */
static inline int line_inputs(int type) { return type == TYPE_INT4 ? 8 : 4; }

/* The offset added to int8 and int4 values so that they are stored unsigned. */
static inline int tile_excess(int type) { return type == TYPE_INT4 ? 8 : 128; }

/* The first bit of input i in a row's word of a line. */
static inline int line_shift(int type, int i) { return type == TYPE_INT4 ? i % 4 * 8 + i / 4 % 2 * 4 : i % 4 * 8; }

/* Byte offset in a tile of the f32 or f16 value of input i in row `lane`. */
static inline int64_t float_offset(int type, int64_t i, int64_t lane) { return (i * TILE + lane) * float_size(type); }

/* Byte offset in a tile of the scale of a group in row `lane`. */
static inline int64_t scale_offset(int64_t group, int64_t lane) { return (group * TILE + lane) * 2; }

/* Byte offset in an int8 or int4 tile of the line with input i. */
static inline int64_t line_offset(const TileLayout *layout, int64_t i) {
    return layout->values + i / line_inputs(layout->type) * TILE_LINE;
}

/* Bytes of a tile up to its first n inputs, of f32, f16 or int8 in one group. */
static inline int64_t tile_prefix(const TileLayout *layout, int64_t n) {
    return is_quantized(layout->type) ? line_offset(layout, align(n, line_inputs(layout->type)))
                                      : float_offset(layout->type, n, 0);
}

/* Returns the value of input i in row `lane` of a tile. */
static inline float tile_read(const TileLayout *layout, const uint8_t *tile, int64_t i, int64_t lane) {
    uint16_t half;
    float value;
    if (layout->type == TYPE_F32) {
        memcpy(&value, tile + float_offset(TYPE_F32, i, lane), 4);
        return value;
    }
    if (layout->type == TYPE_F16) {
        memcpy(&half, tile + float_offset(TYPE_F16, i, lane), 2);
        return float_from_half(half);
    }
    const int per_line = line_inputs(layout->type), excess = tile_excess(layout->type);
    const int shift = line_shift(layout->type, (int)(i % per_line));
    const uint8_t byte = tile[line_offset(layout, i) + 4 * lane + shift / 8];
    memcpy(&half, tile + scale_offset(i / layout->group, lane), 2);
    return (float)((byte >> shift % 8 & (2 * excess - 1)) - excess) * float_from_half(half);
}

/* Writes input i of all 16 rows to a tile of f32. */
static inline void tile_write_f32(uint8_t *tile, int64_t i, const float values[TILE]) {
    memcpy(tile + float_offset(TYPE_F32, i, 0), values, 4 * TILE);
}

/* Writes the value of input i in row `lane` to a tile of f16. */
static inline void tile_write_f16(uint8_t *tile, int64_t i, int64_t lane, uint16_t half) {
    memcpy(tile + float_offset(TYPE_F16, i, lane), &half, 2);
}

/* Writes the scale of a group in row `lane` to a tile of int8 or int4. */
static inline void tile_write_scale(uint8_t *tile, int64_t group, int64_t lane, uint16_t half) {
    memcpy(tile + scale_offset(group, lane), &half, 2);
}

/* Writes the line with input i to a tile of int8 or int4: a word for each row, whose inputs start at line_shift(). */
static inline void tile_write_line(const TileLayout *layout, uint8_t *tile, int64_t i, const uint32_t words[TILE]) {
    uint8_t *line = tile + line_offset(layout, i);
    for (int lane = 0; lane < TILE; lane++, line += 4)
        for (int byte = 0; byte < 4; byte++) line[byte] = (uint8_t)(words[lane] >> 8 * byte);
}

#endif
