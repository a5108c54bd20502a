/* Tokens of a text and back, without Python: `text TABLES STOP... < TEXT` prints the ids of TEXT, with special tokens,
 * then the text of these ids up to a stop string. It exits with 0, with 1 and a message about damage, or with 2.
 *
 * TABLES is a file of seven u32, n_vocab and the lengths of the tables in bytes, then the tables. */
#include <stdio.h>
#include <stdlib.h>

#include "stops.h"
#include "tokenizer.h"
#include "utf8.h"

typedef struct {
    uint8_t *at; /* (n) */
    size_t n;
} Content;

static int n_checks; /* calls of still_here() */

static int still_here(void) {
    n_checks++;
    return 0;
}

static Content read_all(FILE *file) {
    Content content = {NULL, 0};
    for (size_t capacity = 1 << 16;; capacity *= 2) {
        content.at = realloc(content.at, capacity);
        if (!content.at) exit(2);
        content.n += fread(content.at + content.n, 1, capacity - content.n, file);
        if (content.n < capacity) return content;
    }
}

/* Returns a table in memory of its own, so that a sanitizer finds every access outside it. */
static const uint8_t *own(const Content *content, size_t *offset, uint32_t length) {
    uint8_t *table = malloc(length);
    if (!table && length) exit(2);
    if (length) memcpy(table, content->at + *offset, length);
    *offset += length;
    return table;
}

static void print(const uint8_t *text, size_t n) { fwrite(text, 1, n, stdout); }

int main(int argc, char **argv) {
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    uint32_t numbers[7];
    Problem problem;
    Tokenizer tokenizer;
    if (!file) return 2;
    const Content content = read_all(file), text = read_all(stdin);
    size_t offset = sizeof(numbers);
    memcpy(numbers, content.at, sizeof(numbers));
    Tables tables = {.n_vocab = numbers[0], .n_special = numbers[3] / 4, .n_controls = numbers[4] / 4,
                     .n_slots = numbers[5] / (uint32_t)sizeof(Merge), .n_token_bytes = numbers[6]};
    tables.token_offsets = own(&content, &offset, numbers[1]), tables.byte_tokens = own(&content, &offset, numbers[2]);
    tables.special_tokens = own(&content, &offset, numbers[3]), tables.controls = own(&content, &offset, numbers[4]);
    tables.merge_slots = own(&content, &offset, numbers[5]), tables.token_bytes = own(&content, &offset, numbers[6]);
    if (!tokenizer_open(&tokenizer, &tables, &problem)) return fputs(problem.text, stderr), 1;

    Encoding encoding = {.tokenizer = &tokenizer, .special = 1, .opens = 1, .check = still_here};
    const EncodeStatus status = encode_text(&encoding, text.at, text.n);
    if (status == ENCODE_DAMAGED) return fputs(encoding.problem.text, stderr), 1;
    if (status != ENCODE_OK || (text.n > 4 * ENCODING_PATIENCE && !n_checks)) return 2;
    for (size_t i = 0; i < encoding.n; i++) printf("%" PRIu32 " ", encoding.ids[i]);
    printf("\n");

    StopText stop_texts[MAX_STOPS];
    Stops stops;
    Utf8Decoder decoder = {.n = 0};
    for (int i = 2; i < argc; i++) stop_texts[i - 2] = (StopText){(const uint8_t *)argv[i], strlen(argv[i])};
    if (!stops_open(&stops, stop_texts, argc - 2)) return 2;
    for (size_t i = 0; i <= encoding.n; i++) {
        TokenBytes bytes = {.n = 0};
        if (i < encoding.n && !token_bytes(&tables, encoding.ids[i], &bytes, &problem))
            return fputs(problem.text, stderr), 1;
        uint8_t *piece = malloc(UTF8_MOST(bytes.n)), *passed = malloc(UTF8_MOST(bytes.n) + stops.held);
        if (!piece || !passed) return 2;
        const size_t n = i < encoding.n ? utf8_feed(&decoder, bytes.at, bytes.n, piece) : utf8_finish(&decoder, piece);
        print(passed, stops_feed(&stops, piece, n, passed));
        free(piece);
        free(passed);
    }
    uint8_t held[MAX_STOP_BYTES];
    print(held, stops_finish(&stops, held));
    return 0; /* all other memory lives as long as the program */
}
