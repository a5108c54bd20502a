/* JSON (json.h): whatever a document is, every value of a valid one can be read. */
#include "json.h"
#include "input.h"

static const char *const NAMES[] = {"chat", "format", "name", "", "a"};
#define N_NAMES 5

/* Reads a value: all of a text, and the members of an object that have one of the names. Returns how many were read. */
static size_t read_value(Json value, const uint8_t *end, int depth) {
    CHECK(value < end);
    size_t n_read = 1;
    if (json_is(value, '"')) {
        const size_t n = json_text(value, end, NULL);
        uint8_t *text = allocated(n);
        CHECK(n <= (size_t)(end - value) && json_text(value, end, text) == n && utf8_is_valid(text, n));
        free(text);
    }
    for (int i = 0; i < N_NAMES && depth; i++) {
        const Json member = json_member(value, end, NAMES[i]);
        if (!member) continue;
        CHECK(json_is(value, '{') && member > value);
        n_read += read_value(member, end, depth - 1);
    }
    return n_read;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *document = copied(data, size);
    const Json value = json_open(document, size);
    if (value) {
        CHECK(read_value(value, document + size, 4) > 0);
        /* A valid document that is cut is valid only as a shorter number or without white space at its end. */
        for (size_t n = size > 40 ? size - 40 : 0; n < size; n++)
            if (json_open(document, n)) {
                const uint8_t last = document[n];
                CHECK(strchr(" \t\n\r0123456789.eE+-", last) && last);
            }
    }
    free(document);
    return 0;
}
