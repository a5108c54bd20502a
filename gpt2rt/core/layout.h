/* The layout of a model file (docs/format.md): its header, its limits, and what follows from the numbers in the header:
 * the tables of the vocabulary and the tensors of the weights. The reader (modelfile.h) and the writer share it.
 *
 * Letters: n is n_embd. Offsets and lengths are in bytes. */
#ifndef GPT2RT_LAYOUT_H
#define GPT2RT_LAYOUT_H

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "problem.h"
#include "tile.h"

#define MODEL_MAGIC "\x89GPT2RT\n" /* 8 bytes */
#define MODEL_VERSION 2            /* what is written; version 1, without the table of controls, can be read */
#define MODEL_ALIGNMENT 4096       /* of sections; also the size of the header */
#define TABLE_ALIGNMENT 64         /* of tables in the vocabulary, and of tensors in the weights: one cache line */

#define MAX_N_VOCAB (1 << 20)
#define MAX_N_CTX (1 << 16)
#define MAX_N_EMBD (1 << 14)
#define MAX_N_HEAD (1 << 10)
#define MAX_N_LAYER (1 << 10)
#define MAX_METADATA (1 << 20)
#define MAX_TOKEN_BYTES (1 << 28) /* of all tokens of a vocabulary together */
#define MAX_TOKEN_LENGTH 1024     /* bytes of one token; GPT-2's longest has 128 */
#define MAX_EOS 16                /* tokens that end a text */
#define FIXED_CONTROLS 3          /* flags, bos and pad; the tokens that end a text follow */
#define FLAG_HEAD 1u              /* the output head is a separate matrix */

enum { SECTION_METADATA, SECTION_VOCABULARY, SECTION_WEIGHTS, N_SECTIONS };
static const char *const SECTION_NAMES[N_SECTIONS] = {"metadata", "vocabulary", "weights"};
static const char *const TYPE_NAMES[] = {"f32", "f16", "int8", "int4"};
#define N_TYPES 4

static const int GROUP_SIZES[] = {16, 32, 64, 128, 256};
#define N_GROUP_SIZES 5

/* Offsets in the header. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_HEADER_SIZE = 12,
    AT_FILE_SIZE = 16,
    AT_SHAPE = 24, /* eight u32: the five hyperparameters, weight type, group size, flags */
    AT_RESERVED = 56,
    AT_SECTIONS = 64, /* u64 offset, u64 length, u32 CRC32C, u32 0 of each */
    AT_SECTIONS_END = 136,
    AT_CHECKSUM = 4092,
    SECTION_ENTRY = 24,
};

static inline uint32_t read_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t read_u64(const uint8_t *p) { return read_u32(p) | (uint64_t)read_u32(p + 4) << 32; }

static inline void write_u32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> 8 * i);
}

static inline void write_u64(uint8_t *p, uint64_t value) {
    write_u32(p, (uint32_t)value);
    write_u32(p + 4, (uint32_t)(value >> 32));
}

/* --- the shape of a network -------------------------------------------------------------------------------------- */

/* The numbers in a header on which every tensor depends. */
typedef struct {
    int64_t n_vocab, n_ctx, n_embd, n_head, n_layer;
    int64_t type;  /* of the matrices, TYPE_* */
    int64_t group; /* inputs that share a scale; 0 for f32 and f16 */
    int has_head;  /* whether the output head is a matrix of its own, not `wte` */
} ModelShape;

/* Returns whether the five hyperparameters are valid. OUT: problem, if they are not. */
static inline int shape_has_valid_sizes(const ModelShape *s, Problem *problem) {
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"n_vocab", s->n_vocab, MAX_N_VOCAB},
                 {"n_ctx", s->n_ctx, MAX_N_CTX},
                 {"n_embd", s->n_embd, MAX_N_EMBD},
                 {"n_head", s->n_head, MAX_N_HEAD},
                 {"n_layer", s->n_layer, MAX_N_LAYER}};
    for (int i = 0; i < 5; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return problem_set(problem, "%s is %" PRId64 ", expected 1 to %" PRId64, sizes[i].name, sizes[i].value,
                               sizes[i].most);
    if (s->n_embd % s->n_head)
        return problem_set(problem, "n_embd is %" PRId64 ", expected a multiple of n_head, which is %" PRId64,
                           s->n_embd, s->n_head);
    return 1;
}

/* Returns whether a shape is valid; all functions below need one that is. OUT: problem, if it is not. */
static inline int shape_is_valid(const ModelShape *s, Problem *problem) {
    if (!shape_has_valid_sizes(s, problem)) return 0;
    if (s->type < 0 || s->type >= N_TYPES)
        return problem_set(problem, "weight type %" PRId64 ", expected one of 0 to %d", s->type, N_TYPES - 1);
    if (!is_quantized((int)s->type)) {
        if (!s->group) return 1;
        return problem_set(problem, "group size %" PRId64 ", expected 0 for %s", s->group, TYPE_NAMES[s->type]);
    }
    for (int i = 0; i < N_GROUP_SIZES; i++)
        if (s->group == GROUP_SIZES[i]) return 1;
    return problem_set(problem, "group size %" PRId64 ", expected one of (16, 32, 64, 128, 256)", s->group);
}

/* Returns the number of parameters of the network, a separate output head not counted, as is usual. */
static inline int64_t shape_parameters(const ModelShape *s) {
    const int64_t n = s->n_embd;
    return (s->n_vocab + s->n_ctx) * n + s->n_layer * (12 * n * n + 13 * n) + 2 * n;
}

/* --- the weights ------------------------------------------------------------------------------------------------- */

/* Returns the bytes of a matrix (n_out, n_in) in tiles of 16 rows. */
static inline int64_t matrix_length(int type, int64_t group, int64_t n_out, int64_t n_in) {
    return align(n_out, TILE) / TILE * tile_layout(type, n_in, group).stride;
}

/* A tensor of the weights. */
typedef struct {
    const char *name; /* as in OpenAI's checkpoints, without a layer's prefix such as h0/ */
    int64_t layer;    /* -1 for none */
    int64_t n_out, n_in; /* rows and columns; n_in is 0 for a vector */
    int is_matrix;       /* whether it is stored in tiles of the weight type; if not, it is f32, row after row */
    int64_t offset, length; /* in the section */
} Tensor;

/* The tensors in their order: `wpe`, those of each layer, and those after the layers. A dimension is a multiple of n, or
 * one of the two below; `lm_head` exists only if the shape has it. */
enum { DIMENSION_N_CTX = -1, DIMENSION_N_VOCAB = -2 };
static const struct {
    const char *name;
    int n_out, n_in;
    int is_matrix;
} TENSORS[] = {
    {"wpe", DIMENSION_N_CTX, 1, 0},
    {"ln_1/g", 1, 0, 0},
    {"ln_1/b", 1, 0, 0},
    {"attn/c_attn/w", 3, 1, 1},
    {"attn/c_attn/b", 3, 0, 0},
    {"attn/c_proj/w", 1, 1, 1},
    {"attn/c_proj/b", 1, 0, 0},
    {"ln_2/g", 1, 0, 0},
    {"ln_2/b", 1, 0, 0},
    {"mlp/c_fc/w", 4, 1, 1},
    {"mlp/c_fc/b", 4, 0, 0},
    {"mlp/c_proj/w", 1, 4, 1},
    {"mlp/c_proj/b", 1, 0, 0},
    {"ln_f/g", 1, 0, 0},
    {"ln_f/b", 1, 0, 0},
    {"wte", DIMENSION_N_VOCAB, 1, 1},
    {"lm_head", DIMENSION_N_VOCAB, 1, 1},
};
#define LAYER_TENSORS 12

static inline int64_t tensor_dimension(const ModelShape *s, int dimension) {
    return dimension == DIMENSION_N_CTX ? s->n_ctx : dimension == DIMENSION_N_VOCAB ? s->n_vocab : dimension * s->n_embd;
}

/* Returns the number of tensors of a network. */
static inline int64_t shape_tensors(const ModelShape *s) { return 1 + LAYER_TENSORS * s->n_layer + 3 + !!s->has_head; }

/* Goes through the tensors in order. It starts as {.shape = shape}. */
typedef struct {
    const ModelShape *shape;
    int64_t index;  /* of the next tensor, less than shape_tensors() */
    int64_t offset; /* where it begins; after the last one, the length of the weights */
} TensorCursor;

static inline Tensor next_tensor(TensorCursor *cursor) {
    const ModelShape *s = cursor->shape;
    const int64_t index = cursor->index, after_layers = 1 + LAYER_TENSORS * s->n_layer;
    const int is_layer = index > 0 && index < after_layers;
    const int64_t i = is_layer ? 1 + (index - 1) % LAYER_TENSORS : index ? 1 + LAYER_TENSORS + index - after_layers : 0;
    Tensor t = {.name = TENSORS[i].name, .layer = is_layer ? (index - 1) / LAYER_TENSORS : -1,
                .n_out = tensor_dimension(s, TENSORS[i].n_out), .n_in = tensor_dimension(s, TENSORS[i].n_in),
                .is_matrix = TENSORS[i].is_matrix, .offset = cursor->offset};
    t.length = t.is_matrix ? matrix_length((int)s->type, s->group, t.n_out, t.n_in)
                           : align(4 * t.n_out * (t.n_in ? t.n_in : 1), TABLE_ALIGNMENT);
    cursor->index++, cursor->offset += t.length;
    return t;
}

/* Returns the length of the weights. */
static inline int64_t weights_length(const ModelShape *s) {
    TensorCursor cursor = {.shape = s};
    while (cursor.index < shape_tensors(s)) next_tensor(&cursor);
    return cursor.offset;
}

/* --- the vocabulary ---------------------------------------------------------------------------------------------- */

/* The counts at the beginning of a vocabulary, in their order there. */
typedef struct {
    uint32_t n_merges, n_slots, n_special, n_token_bytes, n_controls;
} VocabularyCounts;

enum { TOKEN_OFFSETS, BYTE_TOKENS, SPECIAL_TOKENS, CONTROLS, MERGE_SLOTS, TOKEN_BYTES, N_TABLES };
static const char *const TABLE_NAMES[N_TABLES] = {"token_offsets", "byte_tokens", "special_tokens",
                                                  "controls",      "merge_slots", "token_bytes"};

typedef struct {
    int64_t offset, length; /* in the section */
} Table;

/* Returns the number of slots of the table of merges: a power of two, so that it is at most half full. */
static inline uint64_t slots_for(uint32_t n_merges) {
    uint64_t n = 16;
    while (n < 2 * (uint64_t)n_merges) n *= 2;
    return n;
}

static inline VocabularyCounts vocabulary_read_counts(const uint8_t header[TABLE_ALIGNMENT]) {
    return (VocabularyCounts){.n_merges = read_u32(header), .n_slots = read_u32(header + 4),
                              .n_special = read_u32(header + 8), .n_token_bytes = read_u32(header + 12),
                              .n_controls = read_u32(header + 16)};
}

static inline void vocabulary_write_counts(uint8_t header[TABLE_ALIGNMENT], const VocabularyCounts *c) {
    memset(header, 0, TABLE_ALIGNMENT);
    write_u32(header, c->n_merges);
    write_u32(header + 4, c->n_slots);
    write_u32(header + 8, c->n_special);
    write_u32(header + 12, c->n_token_bytes);
    write_u32(header + 16, c->n_controls);
}

/* Returns the length of a vocabulary. OUT: tables (N_TABLES), where they lie in the section. */
static inline int64_t vocabulary_tables(Table *tables, int64_t n_vocab, const VocabularyCounts *c) {
    const int64_t lengths[N_TABLES] = {4 * (n_vocab + 1),         4 * 256,
                                       4 * (int64_t)c->n_special, 4 * (int64_t)c->n_controls,
                                       16 * (int64_t)c->n_slots,  (int64_t)c->n_token_bytes};
    int64_t end = TABLE_ALIGNMENT;
    for (int i = 0; i < N_TABLES; i++) {
        tables[i] = (Table){.offset = align(end, TABLE_ALIGNMENT), .length = lengths[i]};
        end = tables[i].offset + tables[i].length;
    }
    return end;
}

#endif
