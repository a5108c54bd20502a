/* Texts in a JSON document, without Python: `json NAME... < DOCUMENT` prints the member at the path of names, if it is a
 * text, and exits with 0; with 1 if it is something else or there is none, and with 2 if the document is not valid. */
#include <stdio.h>
#include <stdlib.h>

#include "json.h"

int main(int argc, char **argv) {
    uint8_t *document = malloc(1 << 20);
    if (!document) return 3;
    const size_t n = fread(document, 1, 1 << 20, stdin);
    uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer finds every access outside it */
    if (!exact) return 3;
    memcpy(exact, document, n);
    free(document);
    Json value = json_open(exact, n);
    if (!value) return 2;
    for (int i = 1; i < argc; i++) value = json_member(value, exact + n, argv[i]);
    if (!json_is(value, '"')) return 1;
    const size_t size = json_text(value, exact + n, NULL);
    uint8_t *text = malloc(size ? size : 1);
    if (!text || json_text(value, exact + n, text) != size) return 3;
    fwrite(text, 1, size, stdout);
    return 0;
}
