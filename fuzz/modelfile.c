/* A model file: what opens is used as the standalone program uses it, and 8 tokens are sampled.
 *
 * The fuzzer's bytes are a file without what would stop a fuzzer, or be most of it: sizes and checksums that have to be
 * right, padding, and weights. See seeds.py, which writes them:
 *
 *     u8    which of these to put right: 1 file size, 2 sections, 4 checksum, 8 vocabulary's length, 16 weights' length
 *     u8    how to run it: bits 0 to 3 the instruction set, bit 4 a text instead of a chat
 *     u16   bytes to cut off at the end
 *     u16   length of the metadata
 *     u16   length of the vocabulary
 *     136 bytes of the header, metadata, vocabulary, weights
 *
 * Weights and a vocabulary that are too short are repeated. */
#include "platform.h"

#include "terminal.h"

/* Messages are made, to see that they can be, and not printed. */
static char fuzz_message[4096];
#define complain(...) ((void)snprintf(fuzz_message, sizeof(fuzz_message), __VA_ARGS__))

#include "input.h"
#include "cpu.h"
#include "matrix.h"
/* Kernels take no decisions, and clang needs minutes to add more to them than the address sanitizer. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((no_sanitize("coverage", "undefined"))), apply_to = function)
#endif
#include "kernels/kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#include "program.h"
#include "talk.h"

#define MOST_VOCABULARY (64 << 10)
#define MOST_WEIGHTS (192 << 10)
#define N_TOKENS 8

enum { RIGHT_SIZE = 1, RIGHT_SECTIONS = 2, RIGHT_CHECKSUM = 4, RIGHT_VOCABULARY = 8, RIGHT_WEIGHTS = 16 };

/* Returns n bytes that the caller frees, the input's, repeated if they are too few. */
static uint8_t *repeated(const uint8_t *from, size_t n_from, size_t n) {
    uint8_t *bytes = allocated(n);
    for (size_t i = 0; i < n; i++) bytes[i] = n_from ? from[i % n_from] : 0;
    return bytes;
}

/* Returns the file, which the caller frees. OUT: size. */
static uint8_t *file_make(Input *input, size_t *size) {
    uint8_t header[AT_SECTIONS_END];
    const uint32_t right = input_byte(input) ^ 0xFF;
    input_byte(input);
    const uint32_t cut = input_u16(input), n_metadata = input_u16(input), n_vocabulary = input_u16(input);
    input_copy(input, header, sizeof(header));
    size_t lengths[N_SECTIONS] = {n_metadata, n_vocabulary, 0}, given[N_SECTIONS];
    const uint8_t *from[N_SECTIONS];
    for (int i = 0; i < N_SECTIONS; i++) {
        const size_t n_left = input_left(input);
        given[i] = i < SECTION_WEIGHTS && lengths[i] < n_left ? lengths[i] : n_left;
        from[i] = input->at, lengths[i] = given[i];
        input->at += given[i];
    }
    const uint8_t *numbers = header + AT_SHAPE;
    const ModelShape shape = {.n_vocab = read_u32(numbers), .n_ctx = read_u32(numbers + 4),
                              .n_embd = read_u32(numbers + 8), .n_head = read_u32(numbers + 12),
                              .n_layer = read_u32(numbers + 16), .type = read_u32(numbers + 20),
                              .group = read_u32(numbers + 24), .has_head = (int)(read_u32(numbers + 28) & FLAG_HEAD)};
    Problem problem;
    if (shape_is_valid(&shape, &problem)) {
        const int64_t n_weights = weights_length(&shape);
        CHECK(n_weights > 0);
        if (right & RIGHT_WEIGHTS && n_weights <= MOST_WEIGHTS) lengths[SECTION_WEIGHTS] = (size_t)n_weights;
        if (right & RIGHT_VOCABULARY && given[SECTION_VOCABULARY] >= TABLE_ALIGNMENT) {
            const VocabularyCounts counts = vocabulary_read_counts(from[SECTION_VOCABULARY]);
            Table tables[N_TABLES];
            const int64_t n = vocabulary_tables(tables, shape.n_vocab, &counts);
            if (n > 0 && n <= MOST_VOCABULARY) lengths[SECTION_VOCABULARY] = (size_t)n;
        }
    }
    size_t offsets[N_SECTIONS], end = MODEL_ALIGNMENT;
    for (int i = 0; i < N_SECTIONS; i++) {
        offsets[i] = (size_t)align((int64_t)end, MODEL_ALIGNMENT);
        end = offsets[i] + lengths[i];
    }
    uint8_t *file = allocated(end);
    memset(file, 0, end);
    memcpy(file, header, sizeof(header));
    for (int i = 0; i < N_SECTIONS; i++) {
        uint8_t *content = repeated(from[i], given[i], lengths[i]);
        memcpy(file + offsets[i], content, lengths[i]);
        free(content);
        if (!(right & RIGHT_SECTIONS)) continue;
        uint8_t *entry = file + AT_SECTIONS + i * SECTION_ENTRY;
        write_u64(entry, offsets[i]), write_u64(entry + 8, lengths[i]), write_u32(entry + 20, 0);
    }
    *size = cut < end ? end - cut : 0;
    if (right & RIGHT_SIZE) write_u64(file + AT_FILE_SIZE, *size);
    if (right & RIGHT_CHECKSUM) write_u32(file + AT_CHECKSUM, crc32c(0, file, AT_CHECKSUM));
    uint8_t *exact = copied(file, *size);
    free(file);
    return exact;
}

/* Encodes what the model reads: a message in the chat that its metadata asks for, or a text. Returns whether there is
 * something. OUT: ids. */
static int prompt_make(const Model *m, int is_text, Encoding *ids) {
    const size_t n_ctx = (size_t)m->file.shape.n_ctx;
    const Text message = text_of("Hello the <|endoftext|> aaa\xE6\x97\xA5 123");
    ChatSettings own = {0};
    const ChatSettings options = {0};
    ChatFormat format = {0};
    Text name = {NULL, 0};
    Buffer memory = {0};
    Problem problem;
    int has_prompt = 0;
    ids->tokenizer = &m->tokenizer;
    if (is_text) {
        ids->opens = ids->special = 1;
        has_prompt = encode_text(ids, message.at, message.n) == ENCODE_OK;
    } else if (!read_settings(m, &own, &name, &memory) &&
               chat_format_open(&format, &m->tokenizer, n_ctx, &own, &options, &problem) == CHAT_OK &&
               chat_opening_fits(&format, n_ctx, &problem)) {
        size_t n_dropped;
        has_prompt = conversation_prompt(&format, NULL, 0, message, n_ctx, N_TOKENS, ids, &n_dropped) == CHAT_OK;
        if (has_prompt) CHECK(ids->n <= n_ctx);
    }
    chat_format_close(&format);
    buffer_close(&memory);
    if (has_prompt && ids->n > n_ctx) ids->n = n_ctx;
    return has_prompt && ids->n;
}

static void use(Model *m, uint32_t how) {
    const Kernels *found[MAX_KERNELS];
    const int n_kernels = kernels_here(found);
    Encoding ids = {0};
    Sequence s = {0};
    TextStream stream = {0};
    Sampling sampling = {0};
    Buffer text = {0};
    uint32_t checksum;
    for (int i = 0; i < N_SECTIONS; i++) CHECK(section_checksum(&m->file.sections[i], NULL, &checksum));
    CHECK(modelfile_nonzero_padding(&m->file) < m->file.size);
    m->network.kernels = found[(how & 15) % (uint32_t)n_kernels];
    CHECK(network_open(&m->network, &m->file.shape, m->file.sections[SECTION_WEIGHTS].data));
    CHECK(engine_open(&m->engine, &m->network, 1));
    if (prompt_make(m, how >> 4 & 1, &ids)) {
        for (size_t i = 0; i < ids.n; i++) CHECK(ids.ids[i] < m->file.shape.n_vocab);
        sampling.tokens = allocated((size_t)m->file.shape.n_ctx * sizeof(uint32_t));
        CHECK(sequence_open(&s, &m->network) && stream_open(&stream, &m->tokenizer, NULL, 0, N_TOKENS));
        sequence_sample(m, &s, how >> 4 & 1 ? &GENERATE_DEFAULTS : &CHAT_DEFAULTS, NULL, 0, NULL, 0);
        random_seed(&s.sampler.random, how);
        sequence_push(&s, (const int32_t *)ids.ids, (int64_t)ids.n);
        int status = 0;
        while (!status && !stream.reason) {
            status = sample_more(m, &s, &stream, &sampling, &text);
            CHECK(s.length <= m->file.shape.n_ctx && sampling.n <= N_TOKENS);
        }
        CHECK(status == 0 || (status == EXIT_ERROR && strlen(fuzz_message) > 10));
        for (size_t i = 0; i < sampling.n; i++) CHECK(sampling.tokens[i] < m->file.shape.n_vocab);
        CHECK(utf8_is_valid(buffer_text(&text).at, text.n));
    }
    free(ids.ids), free(sampling.tokens);
    sequence_free(&s);
    stream_close(&stream);
    buffer_close(&text);
    engine_free(&m->engine);
    free(m->network.layers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int is_ready;
    Input input = {data, data + size};
    Model model = {.name = "model"};
    size_t n;
    if (!is_ready) crc32c_init(), is_ready = 1;
    const uint32_t how = size > 1 ? data[1] : 0;
    uint8_t *file = file_make(&input, &n);
    model.bytes = (Mapped){.data = file, .size = n};
    fuzz_message[0] = 0;
    if (!model_open(&model, NULL))
        use(&model, how);
    else
        CHECK(strlen(fuzz_message) > 10);
    free(file);
    return 0;
}
