/* A model file in memory: validates it before anything in it is used (docs/format.md, "What a reader checks"), and
 * verifies its checksums. The bytes may be a mapped file (mapped.h), a copy of one or a part of the program.
 *
 * Call crc32c_init() first. */
#ifndef GPT2RT_MODELFILE_H
#define GPT2RT_MODELFILE_H

#include <stddef.h>

#include "crc32c.h"
#include "layout.h"

#define CHECKSUM_STEP (4 << 20) /* bytes that are verified between looks at whether to stop */

typedef struct {
    const uint8_t *data;    /* (length) */
    int64_t offset, length; /* bytes, in the file */
    uint32_t checksum;      /* its CRC32C in the header */
} Section;

/* The tables of a vocabulary: what is in them is checked where it is used. */
typedef struct {
    const uint8_t *token_offsets;  /* u32 (n_vocab + 1) */
    const uint8_t *byte_tokens;    /* u32 (256) */
    const uint8_t *special_tokens; /* u32 (n_special) */
    const uint8_t *controls;       /* u32 (n_controls) */
    const uint8_t *merge_slots;    /* u32 (n_slots, 4) */
    const uint8_t *token_bytes;    /* (n_token_bytes) */
    VocabularyCounts counts;
} Vocabulary;

/* A valid model file; it points into the bytes. */
typedef struct {
    const uint8_t *data; /* (size) */
    int64_t size;
    ModelShape shape;
    Section sections[N_SECTIONS];
    Vocabulary vocabulary;
} ModelFile;

/* --- opening ----------------------------------------------------------------------------------------------------- */

/* Writes bytes as Python does, such as b'\x89GPT'. OUT: text (4 n + 4). */
static inline void bytes_shown(char *text, const uint8_t *p, size_t n) {
    int n_single = 0, n_double = 0;
    for (size_t i = 0; i < n; i++) n_single += p[i] == '\'', n_double += p[i] == '"';
    const char quote = n_single && !n_double ? '"' : '\'';
    *text++ = 'b', *text++ = quote;
    for (size_t i = 0; i < n; i++) {
        const char letter = p[i] == '\t' ? 't' : p[i] == '\n' ? 'n' : p[i] == '\r' ? 'r' : (char)p[i];
        const int is_short = letter != (char)p[i] || letter == '\\' || letter == quote;
        if (is_short || (p[i] >= ' ' && p[i] <= '~')) {
            if (is_short) *text++ = '\\';
            *text++ = letter;
        } else {
            *text++ = '\\', *text++ = 'x';
            *text++ = "0123456789abcdef"[p[i] >> 4], *text++ = "0123456789abcdef"[p[i] & 15];
        }
    }
    *text++ = quote, *text = 0;
}

/* Writes a + b, which may need 65 bits, in decimal. Returns where it begins in `text`. */
static inline const char *sum_shown(char text[24], uint64_t a, uint64_t b) {
    uint64_t low = a + b, high = low < a; /* high * 2^64 + low; 2^64 = 10 * 1844674407370955161 + 6 */
    char *start = text + 23;
    *start = 0;
    do {
        const uint64_t last = low % 10 + 6 * high;
        *--start = (char)('0' + last % 10);
        low = low / 10 + high * 1844674407370955161u + last / 10, high = 0;
    } while (low);
    return start;
}

/* Checks the header up to the section table, but for the checksums of sections. OUT: f, problem. */
static inline int header_is_valid(ModelFile *f, Problem *problem) {
    const uint8_t *header = f->data;
    const uint64_t size = (uint64_t)f->size, named_size = read_u64(header + AT_FILE_SIZE);
    const uint32_t version = read_u32(header + AT_VERSION), header_size = read_u32(header + AT_HEADER_SIZE);
    const uint32_t stored = read_u32(header + AT_CHECKSUM), flags = read_u32(header + AT_SHAPE + 28);
    if (memcmp(header, MODEL_MAGIC, 8) != 0) {
        char shown[4 * 8 + 4];
        bytes_shown(shown, header, 8);
        return problem_set(problem, "not a gpt2rt model file (it starts with %s, expected b'\\x89GPT2RT\\n')", shown);
    }
    if (version < 1 || version > MODEL_VERSION)
        return problem_set(problem, "format version %" PRIu32 ", this gpt2rt reads versions 1 and 2 (%s)", version,
                           version ? "install a newer gpt2rt" : "convert the checkpoint again");
    const uint32_t actual = crc32c(0, header, AT_CHECKSUM);
    if (stored != actual)
        return problem_set(problem,
                           "the header is damaged: checksum %08" PRIx32 ", expected %08" PRIx32
                           " (copy or convert again)", actual, stored);
    if (header_size != MODEL_ALIGNMENT || flags & ~FLAG_HEAD)
        return problem_set(problem, "header size %" PRIu32 " and flags 0x%" PRIx32 ", expected %d and 0 or 1",
                           header_size, flags, MODEL_ALIGNMENT);
    if (named_size != size)
        return problem_set(problem, "%" PRIu64 " bytes, expected %" PRIu64 " from its header (%s)", size, named_size,
                           size < named_size ? "truncated download?" : "something was appended?");
    const uint8_t *numbers = header + AT_SHAPE;
    f->shape = (ModelShape){.n_vocab = read_u32(numbers), .n_ctx = read_u32(numbers + 4),
                            .n_embd = read_u32(numbers + 8), .n_head = read_u32(numbers + 12),
                            .n_layer = read_u32(numbers + 16), .type = read_u32(numbers + 20),
                            .group = read_u32(numbers + 24), .has_head = (int)flags};
    return shape_is_valid(&f->shape, problem);
}

/* Checks where the sections lie. OUT: f->sections, problem. */
static inline int sections_are_valid(ModelFile *f, Problem *problem) {
    const uint64_t size = (uint64_t)f->size;
    uint64_t end = 0, expected = MODEL_ALIGNMENT;
    for (int i = 0; i < N_SECTIONS; i++) {
        const uint8_t *entry = f->data + AT_SECTIONS + i * SECTION_ENTRY;
        const uint64_t offset = read_u64(entry), length = read_u64(entry + 8);
        if (offset != expected || read_u32(entry + 20))
            return problem_set(problem, "section '%s' starts at byte %" PRIu64 ", expected %" PRIu64, SECTION_NAMES[i],
                               offset, expected);
        if (offset > size || length > size - offset) {
            char shown[24];
            return problem_set(problem, "section '%s' ends at byte %s, but the file has %" PRIu64, SECTION_NAMES[i],
                               sum_shown(shown, offset, length), size);
        }
        f->sections[i] = (Section){.data = f->data + offset, .offset = (int64_t)offset, .length = (int64_t)length,
                                   .checksum = read_u32(entry + 16)};
        end = offset + length;
        expected = (uint64_t)align((int64_t)end, MODEL_ALIGNMENT);
    }
    if (end != size) return problem_set(problem, "%" PRIu64 " bytes after the last section, expected 0", size - end);
    const int64_t n_metadata = f->sections[SECTION_METADATA].length;
    if (n_metadata > MAX_METADATA)
        return problem_set(problem, "metadata of %" PRId64 " bytes, expected at most %d", n_metadata, MAX_METADATA);
    return 1;
}

/* Checks the counts of the vocabulary, and its length against them. OUT: f->vocabulary, problem. */
static inline int vocabulary_is_valid(ModelFile *f, Problem *problem) {
    const Section *section = &f->sections[SECTION_VOCABULARY];
    const int64_t n_vocab = f->shape.n_vocab;
    if (section->length < TABLE_ALIGNMENT)
        return problem_set(problem, "section 'vocabulary' has %" PRId64 " bytes, expected at least %d",
                           section->length, TABLE_ALIGNMENT);
    const VocabularyCounts c = vocabulary_read_counts(section->data);
    if (c.n_merges > n_vocab || c.n_special > n_vocab || c.n_slots != slots_for(c.n_merges) ||
        c.n_token_bytes > MAX_TOKEN_BYTES)
        return problem_set(problem,
                           "invalid vocabulary header for %" PRId64 " tokens: %" PRIu32 " merges in %" PRIu32
                           " slots, %" PRIu32 " special tokens and %" PRIu32 " bytes",
                           n_vocab, c.n_merges, c.n_slots, c.n_special, c.n_token_bytes);
    const uint32_t version = read_u32(f->data + AT_VERSION);
    if (c.n_controls && (version == 1 || c.n_controls < FIXED_CONTROLS || c.n_controls > FIXED_CONTROLS + MAX_EOS))
        return problem_set(problem,
                           "invalid vocabulary header: %" PRIu32 " controls in a file of version %" PRIu32,
                           c.n_controls, version);
    Table tables[N_TABLES];
    const int64_t length = vocabulary_tables(tables, n_vocab, &c);
    if (section->length != length)
        return problem_set(problem, "section 'vocabulary' has %" PRId64 " bytes, expected %" PRId64, section->length,
                           length);
    f->vocabulary = (Vocabulary){.token_offsets = section->data + tables[TOKEN_OFFSETS].offset,
                                 .byte_tokens = section->data + tables[BYTE_TOKENS].offset,
                                 .special_tokens = section->data + tables[SPECIAL_TOKENS].offset,
                                 .controls = section->data + tables[CONTROLS].offset,
                                 .merge_slots = section->data + tables[MERGE_SLOTS].offset,
                                 .token_bytes = section->data + tables[TOKEN_BYTES].offset,
                                 .counts = c};
    return 1;
}

/* Checks everything listed in docs/format.md under "What a reader checks", in that order, in time that does not depend
 * on the weights. Returns whether the file is valid. OUT: f, which is usable only then; problem, if it is not. */
static inline int modelfile_open(ModelFile *f, const void *data, size_t size, Problem *problem) {
    memset(f, 0, sizeof(*f));
    f->data = data;
    f->size = (int64_t)size;
    if (size < MODEL_ALIGNMENT) {
        const size_t n_shown = size < 8 ? size : 8;
        char shown[4 * 8 + 4];
        if (n_shown && !memcmp(data, MODEL_MAGIC, n_shown))
            return problem_set(problem, "%d bytes, expected a header of %d (truncated? copy or convert again)",
                               (int)size, MODEL_ALIGNMENT);
        bytes_shown(shown, data, n_shown);
        return problem_set(problem, "not a gpt2rt model file (it is %d bytes long and starts with %s)", (int)size,
                           shown);
    }
    if (!header_is_valid(f, problem) || !sections_are_valid(f, problem) || !vocabulary_is_valid(f, problem)) return 0;
    const ModelShape *s = &f->shape;
    const int64_t expected = weights_length(s);
    if (f->sections[SECTION_WEIGHTS].length != expected)
        return problem_set(problem,
                           "section 'weights' has %" PRId64 " bytes, expected %" PRId64 " for %s, n_vocab %" PRId64
                           ", n_ctx %" PRId64 ", n_embd %" PRId64 " and n_layer %" PRId64,
                           f->sections[SECTION_WEIGHTS].length, expected, TYPE_NAMES[s->type], s->n_vocab, s->n_ctx,
                           s->n_embd, s->n_layer);
    return 1;
}

/* --- verifying --------------------------------------------------------------------------------------------------- */

/* Computes the CRC32C of a section, which is damaged if it is not the one in the header. `stop`, unless it is NULL, is
 * called between steps; returns 0 if it asked to stop. OUT: checksum. */
static inline int section_checksum(const Section *section, int (*stop)(void), uint32_t *checksum) {
    *checksum = 0;
    for (int64_t at = 0; at < section->length; at += CHECKSUM_STEP) {
        const int64_t left = section->length - at;
        if (at && stop && stop()) return 0;
        *checksum = crc32c(*checksum, section->data + at, (size_t)(left < CHECKSUM_STEP ? left : CHECKSUM_STEP));
    }
    return 1;
}

/* Returns the offset of the first byte in the header or between sections that should be zero and is not, or -1. */
static inline int64_t modelfile_nonzero_padding(const ModelFile *f) {
    const Section *s = f->sections;
    const int64_t gaps[][2] = {{AT_RESERVED, AT_SECTIONS},
                               {AT_SECTIONS_END, AT_CHECKSUM},
                               {s[0].offset + s[0].length, s[1].offset},
                               {s[1].offset + s[1].length, s[2].offset}};
    for (int i = 0; i < 4; i++)
        for (int64_t at = gaps[i][0]; at < gaps[i][1]; at++)
            if (f->data[at]) return at;
    return -1;
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

/* Writes the header of a file with these sections. IN: offset, length and checksum of each. */
static inline void header_write(uint8_t header[MODEL_ALIGNMENT], const ModelShape *s, const Section *sections) {
    const int64_t numbers[8] = {s->n_vocab, s->n_ctx, s->n_embd, s->n_head,
                                s->n_layer, s->type,  s->group,  s->has_head ? (int64_t)FLAG_HEAD : 0};
    const Section *last = &sections[N_SECTIONS - 1];
    memset(header, 0, MODEL_ALIGNMENT);
    memcpy(header + AT_MAGIC, MODEL_MAGIC, 8);
    write_u32(header + AT_VERSION, MODEL_VERSION);
    write_u32(header + AT_HEADER_SIZE, MODEL_ALIGNMENT);
    write_u64(header + AT_FILE_SIZE, (uint64_t)(last->offset + last->length));
    for (int i = 0; i < 8; i++) write_u32(header + AT_SHAPE + 4 * i, (uint32_t)numbers[i]);
    for (int i = 0; i < N_SECTIONS; i++) {
        uint8_t *entry = header + AT_SECTIONS + i * SECTION_ENTRY;
        write_u64(entry, (uint64_t)sections[i].offset);
        write_u64(entry + 8, (uint64_t)sections[i].length);
        write_u32(entry + 16, sections[i].checksum);
    }
    write_u32(header + AT_CHECKSUM, crc32c(0, header, AT_CHECKSUM));
}

#endif
