/* The sampler: hostile logits and any options that gpt2rt accepts. What may be chosen is computed once more by sorting. */
#include <math.h>

#include "input.h"
#include "settings.h"

#define MOST_VOCAB 400
#define MOST_HISTORY 64

/* Returns a value from least to most, often one of the two. */
static double input_real(Input *input, double least, double most) {
    const uint32_t kind = input_byte(input);
    const uint64_t bits = kind & 4 ? input_u64(input) : input_byte(input);
    double value = (double)bits / 64 + least;
    if (kind == 0) return least;
    if (kind == 1) return most;
    if (kind & 4) memcpy(&value, &bits, sizeof(value));
    return value >= least && value <= most ? value : kind & 8 ? 1 : most / 2;
}

static void options_make(SamplingOptions *options, Input *input) {
    memset(options, 0, sizeof(*options));
    for (int i = 0; i < N_SETTINGS; i++) {
        const Setting *setting = &SETTINGS[i];
        double value = setting->kind == SETTING_WHOLE ? input_byte(input) : input_real(input, setting->least, setting->most);
        if (setting->kind == SETTING_WHOLE && value == 255) value = setting->most;
        if (setting->offset == offsetof(SamplingOptions, no_repeat_ngram_size) && value < 255) value = (int)value % 5;
        if (setting->kind == SETTING_FLOAT && (float)value == 0) value = 1;
        setting_change(setting, options, value);
    }
}

static void logits_make(float *logits, int64_t n, Input *input) {
    const uint32_t kind = input_byte(input);
    const int64_t n_given = (int64_t)input_left(input) / (kind & 1 ? 4 : 1);
    for (int64_t i = 0; i < n; i++) {
        if (i >= n_given && n_given) {
            logits[i] = kind & 2 ? logits[i % n_given] : logits[i - 1] - 1; /* equal ones, or fewer and fewer */
        } else if (kind & 1) {
            const uint32_t bits = input_u32(input);
            memcpy(&logits[i], &bits, sizeof(bits));
        } else {
            const float value = (float)input_byte(input);
            logits[i] = value == 255 ? -INFINITY : value / 8;
        }
    }
}

typedef struct {
    float logit;
    int32_t token;
} Entry;

static int compare_entries(const void *a, const void *b) {
    const Entry *first = a, *second = b;
    if (first->logit != second->logit) return first->logit < second->logit ? 1 : -1;
    return (first->token > second->token) - (first->token < second->token);
}

/* Returns whether a token may be chosen from logits, which are finite or minus infinity. Borders of probability are wide
 * by 1e-9: the sum is in another order. */
static int is_allowed(const float *logits, int64_t n, const SamplingOptions *o, int32_t token) {
    Entry *entries = allocated((size_t)n * sizeof(Entry));
    double total = 0, before = 0;
    int64_t at = 0, n_kept = n;
    for (int64_t i = 0; i < n; i++) entries[i] = (Entry){logits[i], (int32_t)i};
    qsort(entries, (size_t)n, sizeof(Entry), compare_entries);
    if (o->top_k > 0 && o->top_k < n_kept) n_kept = o->top_k;
    if (o->temperature == 0) n_kept = 1;
    while (at < n && entries[at].token != token) at++;
    int is_kept = at < n_kept && logits[token] > -INFINITY;
    for (int64_t i = 0; i < n_kept && o->temperature > 0; i++) {
        const double weight = exp(((double)entries[i].logit - entries[0].logit) / o->temperature);
        if (i < at) before += weight;
        if (i == at && o->min_p > 0) is_kept = is_kept && weight >= o->min_p * (1 - 1e-9);
        total += weight;
    }
    if (o->temperature > 0 && o->top_p < 1 && at) is_kept = is_kept && before < o->top_p * total * (1 + 1e-9) + 1e-300;
    free(entries);
    return is_kept;
}

/* Changes logits as the options say, by their definitions. */
static void change_plainly(float *logits, const SamplerInput *input) {
    const SamplingOptions *o = &input->options;
    const int64_t n = input->n_history, width = o->no_repeat_ngram_size - 1;
    const int64_t first = n - (o->repeat_last_n < n ? o->repeat_last_n : n);
    for (int64_t i = 0; i < input->n_bias; i++) logits[input->bias[i].token] += input->bias[i].bias;
    for (int pass = 0; pass < 3; pass++) /* repetition, counts, n-grams */
        for (int64_t i = 0; i < n; i++) {
            const int32_t token = input->history[i];
            float *logit = &logits[token];
            int64_t count = 1, n_before = 0, n_recent = 0;
            int is_exempt = 0;
            for (int64_t j = 0; j < input->n_exempt; j++) is_exempt |= input->exempt[j] == token;
            for (int64_t j = 0; j < i; j++) n_before += input->history[j] == token;
            for (int64_t j = first; j < i; j++) n_recent += input->history[j] == token;
            for (int64_t j = i + 1; j < n; j++) count += input->history[j] == token;
            if (is_exempt) continue;
            if (pass == 0 && i >= first && !n_recent && o->repetition_penalty != 1)
                *logit = *logit > 0 ? *logit / o->repetition_penalty : *logit * o->repetition_penalty;
            if (pass == 1 && !n_before && (o->presence_penalty != 0 || o->frequency_penalty != 0))
                *logit = (float)(*logit - ((double)count * o->frequency_penalty + o->presence_penalty));
            if (pass < 2 || width < 0 || i < width || n < width + 1) continue;
            if (!width || !memcmp(&input->history[i - width], &input->history[n - width], (size_t)width * sizeof(int32_t)))
                *logit = -INFINITY;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, data + size};
    const int64_t n = input_between(&input, 1, MOST_VOCAB);
    SamplerInput given = {.n_history = input_between(&input, 0, MOST_HISTORY), .n_exempt = input_between(&input, 0, 3)};
    SamplerScratch scratch;
    options_make(&given.options, &input);
    int32_t *history = allocated((size_t)given.n_history * sizeof(int32_t));
    for (int64_t i = 0; i < given.n_history; i++) history[i] = (int32_t)(input_byte(&input) % n);
    int32_t exempt[3] = {0};
    for (int64_t i = 0; i < given.n_exempt; i++)
        exempt[i] = (int32_t)((i ? exempt[i - 1] : 0) + (int64_t)input_byte(&input) % (n - (i ? exempt[i - 1] : 0)));
    LogitBias bias[2];
    given.n_bias = input_byte(&input) % 3;
    if (given.n_bias > n) given.n_bias = n;
    for (int64_t i = 0; i < given.n_bias; i++)
        bias[i] = (LogitBias){(int32_t)(i ? (bias[0].token + 1) % n : input_byte(&input) % n),
                              (float)input_byte(&input) - 100};
    given.history = history, given.exempt = exempt, given.bias = bias;
    Random random, again;
    random_seed(&random, input_byte(&input));
    again = random;
    float *logits = allocated((size_t)n * sizeof(float)), *changed = allocated((size_t)n * sizeof(float));
    logits_make(logits, n, &input);
    memcpy(changed, logits, (size_t)n * sizeof(float));
    change_plainly(changed, &given);

    int32_t token = -1, token_again = -1;
    int is_finite = 1, is_any = 0;
    for (int64_t i = 0; i < n; i++) is_finite &= changed[i] <= 3.4028235e38f, is_any |= changed[i] > -INFINITY;
    const int expected = !is_finite ? SAMPLE_NOT_FINITE : is_any ? SAMPLE_OK : SAMPLE_ALL_FORBIDDEN;
    CHECK(sampler_scratch_new(&scratch, n));
    const int status = sampler_sample(&scratch, logits, &given, &random, &token);
    CHECK(status == expected);
    if (status == SAMPLE_OK) {
        CHECK(token >= 0 && token < n);
        CHECK(is_allowed(changed, n, &given.options, token));
    }
    for (int64_t i = 0; i < n; i++) CHECK(scratch.count[i] == 0);
    CHECK(sampler_sample(&scratch, logits, &given, &again, &token_again) == status && token_again == token);
    CHECK(!memcmp(&random, &again, sizeof(random)));
    sampler_scratch_free(&scratch);
    free(logits), free(changed), free(history);
    return 0;
}
