/* A standalone program that talks: runtime and model in one executable, or the model in a file beside it.
 *
 *     NAME                         chats
 *     NAME -p "Once upon a time"   continues a text
 *
 * Python runs the same headers, so the same seed gives the same text. main() is at the end. */
#define GPT2RT_STANDALONE 1
#include "platform.h"

#include "carried.h"
#include "cut_file.h"
#include "json.h"
#include "program.h"
#include "random_seed.h"
#include "talk.h"

#ifndef GPT2RT_VERSION
#define GPT2RT_VERSION "(development)"
#endif
#define GENERATE_MAX_TOKENS 200 /* unless the user says otherwise */

/* --- --info and --verify ----------------------------------------------------------------------------------------- */

/* Prints a member of the metadata that is a text, if it is there. Returns 0 if memory runs out. */
static int print_member(Json object, const uint8_t *end, const char *name, const char *label) {
    const Json text = json_member(object, end, name);
    Buffer bytes = {0};
    if (!json_is(text, '"')) return 1;
    if (!buffer_reserve(&bytes, json_text(text, end, NULL))) return 0;
    printf("%-15s", label);
    output_flush();
    print_text(bytes.at, json_text(text, end, bytes.at));
    printf("\n");
    buffer_close(&bytes);
    return 1;
}

static int info(const Model *m) {
    const ModelShape *s = &m->file.shape;
    const Section *metadata = &m->file.sections[SECTION_METADATA];
    const uint8_t *end = metadata->data + metadata->length;
    const Json object = json_open(metadata->data, (size_t)metadata->length);
    Network network = {0};
    if (!network_open(&network, s, m->file.sections[SECTION_WEIGHTS].data)) return no_memory();
    printf("file           %s, %.1f MB\n", m->name, (double)m->file.size / 1e6);
    printf("parameters     %.1f million\n", (double)shape_parameters(s) / 1e6);
    printf("weights        %s", TYPE_NAMES[s->type]);
    if (s->group) printf(" in groups of %" PRId64, s->group);
    printf(", %.1f MB\n", (double)m->file.sections[SECTION_WEIGHTS].length / 1e6);
    printf("n_vocab        %" PRId64 "\nn_ctx          %" PRId64 "\n", s->n_vocab, s->n_ctx);
    printf("n_embd         %" PRId64 "\nn_head         %" PRId64 "\n", s->n_embd, s->n_head);
    printf("n_layer        %" PRId64 "\nKV cache       %.1f MB for %" PRId64 " tokens\n", s->n_layer,
           (double)(cache_position_size(&network) * s->n_ctx) / 1e6, s->n_ctx);
    free(network.layers);
    if (!print_member(object, end, "name", "name") || !print_member(object, end, "license", "license") ||
        !print_member(json_member(object, end, "chat"), end, "format", "chat format"))
        return no_memory();
    return 0;
}

static int verify(const Model *m) {
    const int64_t nonzero = modelfile_nonzero_padding(&m->file);
    int n_damaged = 0;
    for (int i = 0; i < N_SECTIONS; i++) {
        const Section *section = &m->file.sections[i];
        uint32_t actual;
        if (!section_checksum(section, was_interrupted, &actual)) return EXIT_INTERRUPTED;
        if (actual == section->checksum) continue;
        n_damaged++;
        complain("%s: section '%s' is damaged: checksum %08" PRIx32 ", expected %08" PRIx32 " (copy or convert again)",
                 m->name, SECTION_NAMES[i], actual, section->checksum);
    }
    if (nonzero >= 0)
        complain("%s: byte %" PRId64 ", between the sections, is not zero (copy or convert again)", m->name, nonzero);
    if (n_damaged || nonzero >= 0) return EXIT_ERROR;
    printf("%s: %d sections, %" PRId64 " bytes, no damage\n", m->name, N_SECTIONS, m->file.size);
    return 0;
}

/* --- -p ---------------------------------------------------------------------------------------------------------- */

/* Adds the ids of the prompt; those that begin a text if it is empty. Returns an exit status, 0 if all is well. */
static int encode_prompt(const Model *m, Text prompt, Encoding *ids) {
    const int64_t n_ctx = m->file.shape.n_ctx;
    ids->tokenizer = &m->tokenizer, ids->opens = 1, ids->check = was_interrupted;
    const EncodeStatus status = encode_text(ids, prompt.at, prompt.n);
    if (status == ENCODE_STOPPED) return EXIT_INTERRUPTED;
    if (status == ENCODE_NO_MEMORY) return no_memory();
    if (status != ENCODE_OK)
        return complain("%s", ids->problem.text), status == ENCODE_TOO_LONG ? EXIT_USAGE : EXIT_ERROR;
    if (!ids->n && m->tokenizer.bos == MERGES_NONE)
        return complain("prompt: it is empty, and the vocabulary has no token to start with, such as <|endoftext|>"),
               EXIT_USAGE;
    if (!ids->n && encode_token(ids, m->tokenizer.bos) != ENCODE_OK) return no_memory();
    if ((int64_t)ids->n <= n_ctx) return 0;
    complain("prompt: %zu tokens, but the model has %" PRId64 " positions (shorten it)", ids->n, n_ctx);
    return EXIT_ERROR;
}

/* Samples the text and prints it. Returns an exit status. IN: last, the last byte printed, 0 if there is none. */
static int print_generated(Model *m, Sequence *s, TextStream *stream, Sampling *sampling, uint8_t last) {
    Buffer piece = {0};
    int status = 0;
    while (!status && !stream->reason && !output_error) {
        piece.n = 0;
        status = sample_more(m, s, stream, sampling, &piece);
        if (!piece.n) continue;
        print_text(piece.at, piece.n);
        last = piece.at[piece.n - 1];
    }
    buffer_close(&piece);
    if (last && last != '\n') print_text((const uint8_t *)"\n", 1);
    return status;
}

static int generate(Model *m, const Options *o) {
    const uint64_t seed = o->has_seed ? o->seed : system_seed();
    const uint64_t max_tokens = o->max_tokens ? (uint64_t)o->max_tokens : GENERATE_MAX_TOKENS;
    Text prompt = text_of(o->prompt);
    Buffer input = {0};
    Encoding ids = {0};
    Sequence s = {0};
    TextStream stream = {0};
    Sampling sampling = {.begin = clock_seconds()};
    int status = 0;
    if (text_equal(prompt, text_of("-"))) {
        status = input_problem(read_stream(&input, 0));
        prompt = buffer_text(&input);
        prompt.n -= prompt.n && prompt.at[prompt.n - 1] == '\n';
    }
    if (!status) status = encode_prompt(m, prompt, &ids);
    if (!status) {
        sampling.tokens = malloc((size_t)m->file.shape.n_ctx * sizeof(uint32_t));
        if (!sampling.tokens || !sequence_open(&s, &m->network) ||
            !stream_open(&stream, &m->tokenizer, o->stops, o->n_stops, max_tokens))
            status = no_memory();
    }
    if (!status) {
        char read[32], sampled[32];
        const int echoes = o->echo && prompt.n;
        if (echoes) print_text(prompt.at, prompt.n);
        sequence_sample(m, &s, &o->sampling, NULL, 0, NULL, 0);
        random_seed(&s.sampler.random, seed);
        sequence_push(&s, (const int32_t *)ids.ids, (int64_t)ids.n);
        sampling.begin = clock_seconds();
        status = print_generated(m, &s, &stream, &sampling, echoes ? prompt.at[prompt.n - 1] : 0);
        speed_shown(read, ids.n, sampling.first - sampling.begin);
        speed_shown(sampled, sampling.n, sampling.last - sampling.first);
        fprintf(stderr, "seed %" PRIu64 "; prompt %zu token%s, %s; text %zu token%s, %s\n", seed, ids.n,
                ids.n == 1 ? "" : "s", read, sampling.n, sampling.n == 1 ? "" : "s", sampled);
    }
    free(sampling.tokens);
    free(ids.ids);
    buffer_close(&input);
    stream_close(&stream);
    sequence_free(&s);
    return status;
}

/* --- the program ------------------------------------------------------------------------------------------------- */

static int run(Model *m, const Options *o) {
    int status = model_open(m, o);
    if (status) return status;
    if (o->action == ACTION_INFO) return info(m);
    if (o->action == ACTION_VERIFY) return verify(m);
    status = model_start(m, o);
    if (status) return status;
    return o->action == ACTION_GENERATE ? generate(m, o) : talk(m, o);
}

int main(int argc, char **argv) {
    Model model = {.name = argc ? argv[0] : "gpt2rt-chat"};
    Options options;
    Problem problem;
    int is_carried = 0;
    streams_open();
    catch_interrupts();
    end_when_a_file_is_cut();
    const MappedResult carried = carried_open(&model.bytes, &is_carried, &problem);
    if (carried == MAPPED_NO_MEMORY) return no_memory();
    if (carried != MAPPED_OK) return complain("%s: %s", model.name, problem.text), EXIT_ERROR;
    if (!options_read(&options, argc - 1, argv + 1, !is_carried, &problem))
        return complain("%s", problem.text), EXIT_USAGE;
    if (options.action == ACTION_HELP) return print_help(model.name, !is_carried), output_end(0);
    if (options.action == ACTION_VERSION) return printf("gpt2rt-chat %s\n", GPT2RT_VERSION), output_end(0);
    if (!is_carried && !options.model)
        return complain("expected a model file (%s --help lists the options)", model.name), EXIT_USAGE;
    const int status = run(&model, &options);
    model_close(&model);
    return output_end(status);
}
