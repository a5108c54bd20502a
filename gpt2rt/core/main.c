/* The standalone program: finds its model and prints its shape. */
#include "platform.h"

#include <stdio.h>
#include <string.h>

#include "carried.h"
#include "modelfile.h"

#ifndef GPT2RT_VERSION
#define GPT2RT_VERSION "(development)"
#endif

int main(int argc, char **argv) {
    Mapped m;
    Problem problem;
    ModelFile f;
    int is_carried;
    MappedResult result = carried_open(&m, &is_carried, &problem);
    const char *name = is_carried || argc < 2 ? argv[0] : argv[1];
    if (argc > 1 && !strcmp(argv[1], "--version")) return printf("gpt2rt-chat %s\n", GPT2RT_VERSION), 0;
    if (result == MAPPED_OK && !is_carried && argc < 2) return fprintf(stderr, "gpt2rt: expected a model file\n"), 2;
    if (result == MAPPED_OK && !is_carried) result = mapped_open(&m, name, 0, 1, &problem);
    crc32c_init();
    if (result != MAPPED_OK || !modelfile_open(&f, m.data, m.size, &problem))
        return fprintf(stderr, "gpt2rt: %s: %s\n", name, problem.text), 1;
    printf("%d tokens, n_embd %d, n_layer %d\n", (int)f.shape.n_vocab, (int)f.shape.n_embd, (int)f.shape.n_layer);
    return 0;
}
