/* Continues a text by the N most likely tokens with llama.cpp and prints it, to time llama.cpp without Python.

   continue_text MODEL THREADS TEXT N */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llama.h"

enum { N_CTX = 1024, MAX_PIECE = 256 };

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

static void fail(const char *what) {
    fprintf(stderr, "continue_text: %s\n", what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 5) fail("expected MODEL THREADS TEXT N");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) fail("the model can't be loaded");
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = N_CTX;
    params.n_threads = params.n_threads_batch = atoi(argv[2]);
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) fail("no context");

    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    llama_token tokens[N_CTX];
    int n = llama_tokenize(vocab, argv[3], (int)strlen(argv[3]), tokens, N_CTX, true, false);
    if (n <= 0) fail("the text can't be tokenized");
    for (int left = atoi(argv[4]); left; left--) {
        if (llama_decode(context, llama_batch_get_one(tokens, n))) fail("llama_decode failed");
        const float *logits = llama_get_logits_ith(context, -1);
        llama_token best = 0;
        for (llama_token token = 1; token < llama_vocab_n_tokens(vocab); token++)
            if (logits[token] > logits[best]) best = token;
        char piece[MAX_PIECE];
        int length = llama_token_to_piece(vocab, best, piece, MAX_PIECE, 0, true);
        if (length > 0) fwrite(piece, 1, (size_t)length, stdout);
        fflush(stdout);
        tokens[0] = best;
        n = 1;
    }
    _exit(0); /* the text is there: taking the runtime down is not counted */
}
