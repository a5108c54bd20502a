/* Runs a target on files, without libFuzzer: `TARGET FILE...`. */
#include "input.h"

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *stream = fopen(argv[i], "rb");
        if (!stream || fseek(stream, 0, SEEK_END)) return perror(argv[i]), 1;
        const size_t n = (size_t)ftell(stream);
        uint8_t *content = allocated(n);
        rewind(stream);
        if (fread(content, 1, n, stream) != n) return perror(argv[i]), 1;
        fclose(stream);
        fprintf(stderr, "%s\n", argv[i]);
        LLVMFuzzerTestOneInput(content, n);
        free(content);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
