/* Samples the next token from logits, the same one on every machine.
 *
 * The choice of a token uses only IEEE arithmetic in a fixed order: its own exponential, logarithm and random
 * generator, and no libm; compile with -ffp-contract=off. The filters apply in the usual order, so that settings can be
 * carried over from other programs: logit bias, penalties and forbidden tokens, temperature, top_k, top_p of what top_k
 * keeps, min_p. One scan reads all logits in blocks; only possible candidates are gathered and sorted.
 *
 * There are no locks: use one scratch and one Random per thread. */
#ifndef GPT2RT_SAMPLER_H
#define GPT2RT_SAMPLER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLER_BLOCK = 64,         /* logits per block, whose maximum is kept */
    SAMPLER_FEW = 32,           /* candidates that are sorted directly */
    SAMPLER_MAX_PARTITIONS = 64 /* then the rest is sorted, so that the worst case is n log n */
};

enum { SAMPLE_OK, SAMPLE_NOT_FINITE, SAMPLE_ALL_FORBIDDEN };

typedef struct {
    double temperature;            /* divides the logits; 0: the most likely token, the lowest id if tied */
    double top_p;                  /* 1: off */
    double min_p;                  /* 0: off */
    int64_t top_k;                 /* 0: off */
    int64_t repeat_last_n;         /* tokens of the history to which repetition_penalty applies */
    int64_t no_repeat_ngram_size;  /* 0: off */
    double presence_penalty, frequency_penalty; /* 0: off */
    float repetition_penalty;      /* 1: off */
} SamplingOptions;

typedef struct {
    uint64_t s[4]; /* of xoshiro256** */
} Random;

typedef struct {
    int64_t rank;  /* (logit as an integer, -id): higher logits first, then lower ids */
    double weight; /* probability, not normalized */
} Candidate;

typedef struct {
    int64_t n_vocab;
    float *logits;      /* (n_vocab) a copy, biased and penalized */
    int32_t *block_max; /* (n_vocab / SAMPLER_BLOCK, rounded up) float_order of each block's maximum */
    Candidate *pool;    /* (n_vocab) */
    int32_t *count;     /* (n_vocab) occurrences in the history; zero between calls */
} SamplerScratch;

typedef struct {
    int32_t token;
    float bias; /* added to its logit */
} LogitBias;

typedef struct {
    SamplingOptions options;
    const LogitBias *bias; /* (n_bias) distinct tokens */
    int64_t n_bias;
    const int32_t *history; /* (n_history) ids of the vocabulary, oldest first */
    int64_t n_history;
    const int32_t *exempt; /* (n_exempt) ids that are neither penalized nor forbidden, ascending */
    int64_t n_exempt;
} SamplerInput;

/* --- arithmetic ------------------------------------------------------------------------------------------------- */

/* e^x for x <= 0, to about 2e-16 relative; 0 below -708.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts; the first ends in zeros, so k times it is exact), then the
 * Taylor series, with a remainder below 5e-18, and k is added to the exponent. */
static inline double exp_negative(double x) {
    const double shift = 6755399441055744.0;          /* 1.5 * 2^52: the low bits are the nearest integer */
    double rounded = x * 1.4426950408889634 + shift;
    uint64_t k, bits;
    memcpy(&k, &rounded, 8);
    rounded -= shift;
    const double r = (x - rounded * 0.6931471803691238) - rounded * 1.9082149292705877e-10;
    const double r2 = r * r;
    /* Even and odd terms, which a processor can evaluate in parallel; 1 + r last, for a small rounding error. */
    double y = 1 / 479001600.0 + r * (1 / 6227020800.0);
    y = y * r2 + (1 / 3628800.0 + r * (1 / 39916800.0));
    y = y * r2 + (1 / 40320.0 + r * (1 / 362880.0));
    y = y * r2 + (1 / 720.0 + r * (1 / 5040.0));
    y = y * r2 + (1 / 24.0 + r * (1 / 120.0));
    y = y * r2 + (0.5 + r * (1 / 6.0));
    y = 1.0 + (r + r2 * y);
    memcpy(&bits, &y, 8);
    bits += k << 52;
    memcpy(&y, &bits, 8);
    return x < -708.0 ? 0.0 : y;
}

/* ln x for normal x > 0, to about 3e-16 relative; 0 for 1.
 *
 * x = 2^k m with m from sqrt(1/2) to sqrt(2); ln m = 2 artanh(f), f = (m - 1) / (m + 1), whose series has a relative
 * remainder below 3e-19. */
static inline double log_positive(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    const uint64_t above = bits - 0x3FE6A09E667F3BCDu; /* sqrt(1/2) */
    const double k = (double)((int64_t)(above >> 52) - (above >> 63 ? 4096 : 0));
    bits -= above & 0xFFF0000000000000u;
    double m;
    memcpy(&m, &bits, 8);
    const double f = (m - 1.0) / (m + 1.0), f2 = f * f;
    double y = 1 / 23.0;
    y = y * f2 + 1 / 21.0;
    y = y * f2 + 1 / 19.0;
    y = y * f2 + 1 / 17.0;
    y = y * f2 + 1 / 15.0;
    y = y * f2 + 1 / 13.0;
    y = y * f2 + 1 / 11.0;
    y = y * f2 + 1 / 9.0;
    y = y * f2 + 1 / 7.0;
    y = y * f2 + 1 / 5.0;
    y = y * f2 + 1 / 3.0;
    return k * 0.6931471803691238 + (2.0 * f + (2.0 * f * f2 * y + k * 1.9082149292705877e-10));
}

enum { ORDER_INFINITY = 0x7F800000, ORDER_MINUS_INFINITY = -0x7F800001 }; /* as float_order */

/* Returns the float's bits as an integer with the same order as floats; NaN is above or below the infinities. */
static inline int32_t float_order(float x) {
    int32_t bits;
    x += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &x, 4);
    return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

static inline double order_value(int32_t key) {
    const int32_t bits = key < 0 ? key ^ 0x7FFFFFFF : key;
    float x;
    memcpy(&x, &bits, 4);
    return (double)x;
}

static inline int64_t rank_of(int32_t key, int64_t token) { return (int64_t)key * ((int64_t)1 << 32) - token; }

static inline int32_t rank_key(int64_t rank) { return (int32_t)((rank + 0xFFFFFFFF) >> 32); }

static inline int32_t rank_token(int64_t rank) { return (int32_t)(-rank & 0xFFFFFFFF); }

/* --- random numbers --------------------------------------------------------------------------------------------- */

/* splitmix64 fills the state, as recommended by the generator's authors (Blackman and Vigna). */
static inline void random_seed(Random *random, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        seed += 0x9E3779B97F4A7C15u;
        uint64_t z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        random->s[i] = z ^ (z >> 31);
    }
}

/* xoshiro256** (Blackman and Vigna, Scrambled linear pseudorandom number generators, 2021). */
static inline uint64_t random_next(Random *random) {
    uint64_t *s = random->s;
    const uint64_t five = s[1] * 5, result = ((five << 7) | (five >> 57)) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

/* A number in [0, 1). */
static inline double random_unit(Random *random) {
    return (double)(random_next(random) >> 11) * (1.0 / 9007199254740992.0);
}

/* --- selection -------------------------------------------------------------------------------------------------- */

static inline void candidates_swap(Candidate *a, Candidate *b) {
    const Candidate c = *a;
    *a = *b;
    *b = c;
}

static inline void candidates_sift_down(Candidate *c, int64_t i, int64_t n) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && c[child + 1].rank < c[child].rank) child++;
        if (c[i].rank <= c[child].rank) return;
        candidates_swap(&c[i], &c[child]);
    }
}

/* Heapsort, descending: it needs no memory and has no slow case. */
static inline void candidates_sort(Candidate *c, int64_t n) {
    for (int64_t i = n / 2 - 1; i >= 0; i--) candidates_sift_down(c, i, n);
    for (int64_t i = n - 1; i > 0; i--) {
        candidates_swap(&c[0], &c[i]);
        candidates_sift_down(c, 0, i);
    }
}

static inline int64_t rank_median(int64_t a, int64_t b, int64_t c) {
    const int64_t lower = a < b ? a : b, higher = a < b ? b : a, bounded = higher < c ? higher : c;
    return lower > bounded ? lower : bounded;
}

/* Moves to the front the fewest highest-ranked candidates whose total weight reaches the target, or all n if it is not
 * reached. Returns their number, at least one. Quickselect by weight: the part that contains the border is split again.
 * INOUT c (n), reordered. */
static inline int64_t candidates_leading(Candidate *c, int64_t n, double target) {
    int64_t low = 0, high = n;
    double before = 0.0;
    for (int rounds = 0; high - low > SAMPLER_FEW && rounds < SAMPLER_MAX_PARTITIONS; rounds++) {
        const int64_t pivot = rank_median(c[low].rank, c[low + (high - low) / 2].rank, c[high - 1].rank);
        int64_t front = low;
        double weight = 0.0;
        for (int64_t i = low; i < high; i++) {
            if (c[i].rank < pivot) continue;
            weight += c[i].weight;
            candidates_swap(&c[front++], &c[i]);
        }
        if (front == high) { /* the pivot ranks last: move it to the end and decide on it alone */
            int64_t i = low;
            while (c[i].rank != pivot) i++;
            candidates_swap(&c[i], &c[high - 1]);
            if (before + (weight - c[high - 1].weight) < target) return high;
            high--;
        } else if (before + weight >= target) {
            high = front;
        } else {
            before += weight;
            low = front;
        }
    }
    candidates_sort(c + low, high - low);
    for (int64_t i = low; i < high; i++) {
        before += c[i].weight;
        if (before >= target) return i + 1;
    }
    return high;
}

/* The greatest and the least of n logits, as float_order. */
static inline void block_scan(const float *logits, int64_t n, int32_t *greatest, int32_t *least) {
    int64_t i = 0;
    *greatest = INT32_MIN, *least = INT32_MAX;
#if defined(__GNUC__) /* clang too; most of the sampler's time, so not left to what a compiler finds out by itself */
    typedef float Floats __attribute__((vector_size(16)));
    typedef int32_t Ints __attribute__((vector_size(16)));
    const Ints magnitude = {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX};
    Ints most = {INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN}, fewest = magnitude;
    for (; i + 4 <= n; i += 4) {
        Floats x;
        Ints key;
        memcpy(&x, logits + i, sizeof(x));
        x += 0.0f; /* -0 is 0 */
        memcpy(&key, &x, sizeof(key));
        key ^= (key >> 31) & magnitude;
        const Ints is_greater = key > most, is_less = key < fewest;
        most = (key & is_greater) | (most & ~is_greater);
        fewest = (key & is_less) | (fewest & ~is_less);
    }
    for (int l = 0; l < 4; l++) {
        *greatest = most[l] > *greatest ? most[l] : *greatest;
        *least = fewest[l] < *least ? fewest[l] : *least;
    }
#endif
    for (; i < n; i++) {
        const int32_t key = float_order(logits[i]);
        *greatest = key > *greatest ? key : *greatest;
        *least = key < *least ? key : *least;
    }
}

/* Checks all logits and finds the greatest, as float_order. OUT block_max (number of blocks), may be NULL. */
static inline int logits_scan(const float *logits, int64_t n, int32_t *block_max, int32_t *greatest) {
    int32_t least = INT32_MAX;
    *greatest = INT32_MIN;
    for (int64_t begin = 0; begin < n; begin += SAMPLER_BLOCK) {
        int32_t most, fewest;
        block_scan(logits + begin, n - begin < SAMPLER_BLOCK ? n - begin : SAMPLER_BLOCK, &most, &fewest);
        if (block_max) block_max[begin / SAMPLER_BLOCK] = most;
        *greatest = most > *greatest ? most : *greatest;
        least = fewest < least ? fewest : least;
    }
    if (*greatest >= ORDER_INFINITY || least < ORDER_MINUS_INFINITY) return SAMPLE_NOT_FINITE;
    return *greatest == ORDER_MINUS_INFINITY ? SAMPLE_ALL_FORBIDDEN : SAMPLE_OK;
}

/* Returns a lower bound of the k-th greatest logit, as float_order: the k-th greatest block maximum, but above minus
 * infinity. Overwrites the pool. */
static inline int32_t sampler_floor(SamplerScratch *scratch, int64_t k) {
    const int64_t n_blocks = (scratch->n_vocab + SAMPLER_BLOCK - 1) / SAMPLER_BLOCK;
    Candidate *c = scratch->pool;
    if (k <= 0 || k >= n_blocks) return ORDER_MINUS_INFINITY + 1;
    for (int64_t b = 0; b < n_blocks; b++) c[b] = (Candidate){rank_of(scratch->block_max[b], b), 1.0};
    const int64_t kept = candidates_leading(c, n_blocks, (double)k);
    int64_t least = c[0].rank;
    for (int64_t b = 1; b < kept; b++) least = c[b].rank < least ? c[b].rank : least;
    const int32_t key = rank_key(least);
    return key > ORDER_MINUS_INFINITY ? key : ORDER_MINUS_INFINITY + 1;
}

/* Fills the pool with the logits not below the threshold, by ascending id, with weight 1; returns their number. */
static inline int64_t sampler_gather(SamplerScratch *scratch, const float *logits, int32_t threshold) {
    const int64_t n = scratch->n_vocab;
    int64_t count = 0;
    for (int64_t begin = 0; begin < n; begin += SAMPLER_BLOCK) {
        const int64_t end = n - begin < SAMPLER_BLOCK ? n : begin + SAMPLER_BLOCK;
        if (scratch->block_max[begin / SAMPLER_BLOCK] < threshold) continue;
        for (int64_t i = begin; i < end; i++) {
            const int32_t key = float_order(logits[i]);
            if (key >= threshold) scratch->pool[count++] = (Candidate){rank_of(key, i), 1.0};
        }
    }
    return count;
}

/* --- repetition ------------------------------------------------------------------------------------------------- */

static inline int sampler_is_exempt(const SamplerInput *input, int32_t token) {
    int64_t low = 0, high = input->n_exempt;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (input->exempt[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < input->n_exempt && input->exempt[low] == token;
}

/* Makes the last tokens of the history less likely, each token once however often it occurs. */
static inline void sampler_penalize(SamplerScratch *scratch, const SamplerInput *input) {
    const float penalty = input->options.repetition_penalty;
    const int64_t n = input->n_history, last = input->options.repeat_last_n;
    const int64_t first = last <= 0 ? n : last < n ? n - last : 0;
    if (penalty == 1.0f) return;
    for (int64_t i = first; i < n; i++) {
        const int32_t token = input->history[i];
        float *logit = &scratch->logits[token];
        if (scratch->count[token] || sampler_is_exempt(input, token)) continue;
        scratch->count[token] = 1;
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
    for (int64_t i = first; i < n; i++) scratch->count[input->history[i]] = 0;
}

/* Subtracts from the logit of each token of the history presence_penalty, and frequency_penalty times the number of its
 * occurrences, as OpenAI's API does. */
static inline void sampler_penalize_counts(SamplerScratch *scratch, const SamplerInput *input) {
    const double presence = input->options.presence_penalty, frequency = input->options.frequency_penalty;
    if (presence == 0 && frequency == 0) return;
    for (int64_t i = 0; i < input->n_history; i++) scratch->count[input->history[i]]++;
    for (int64_t i = 0; i < input->n_history; i++) {
        const int32_t token = input->history[i];
        float *logit = &scratch->logits[token];
        if (scratch->count[token] && !sampler_is_exempt(input, token))
            *logit = (float)(*logit - (scratch->count[token] * frequency + presence));
        scratch->count[token] = 0;
    }
}

/* Forbids the tokens that would repeat an n-gram of the history. Compares at most n_history * n ids, and far fewer in
 * text that does not repeat itself. */
static inline void sampler_forbid_repetition(SamplerScratch *scratch, const SamplerInput *input) {
    const int64_t n = input->n_history, size = input->options.no_repeat_ngram_size;
    const int32_t minus_infinity = -0x800000;
    if (size <= 0 || n < size) return;
    const int64_t width = size - 1;
    const int32_t *end = input->history + (n - width); /* (width) the ids before the next token */
    for (int64_t i = 0; i < n - width; i++) {
        const int32_t *begin = input->history + i, token = begin[width];
        if (width && (begin[0] != end[0] || memcmp(begin, end, (size_t)width * sizeof(int32_t)))) continue;
        if (!sampler_is_exempt(input, token)) memcpy(&scratch->logits[token], &minus_infinity, 4);
    }
}

/* --- the sampler ------------------------------------------------------------------------------------------------ */

static inline void sampler_scratch_free(SamplerScratch *scratch) {
    free(scratch->logits);
    free(scratch->block_max);
    free(scratch->pool);
    free(scratch->count);
    memset(scratch, 0, sizeof(*scratch));
}

/* Makes a scratch for n_vocab >= 1 logits; returns 0, with nothing to free, if memory runs out. */
static inline int sampler_scratch_new(SamplerScratch *scratch, int64_t n_vocab) {
    const size_t n = (size_t)n_vocab;
    scratch->n_vocab = n_vocab;
    scratch->logits = calloc(n, sizeof(float));
    scratch->block_max = calloc(n / SAMPLER_BLOCK + 1, sizeof(int32_t));
    scratch->pool = calloc(n, sizeof(Candidate));
    scratch->count = calloc(n, sizeof(int32_t));
    if (scratch->logits && scratch->block_max && scratch->pool && scratch->count) return 1;
    sampler_scratch_free(scratch);
    return 0;
}

/* Puts the tokens that may be sampled, with their weights, at the front of the pool, unordered; they always include the
 * most likely token. Returns SAMPLE_OK or what is wrong with the logits.
 * logits: (n_vocab) of the scratch; minus infinity forbids a token. OUT count. */
static inline int sampler_choose(SamplerScratch *scratch, const float *logits, const SamplerInput *input,
                                 int64_t *count) {
    const SamplingOptions *options = &input->options;
    Candidate *c = scratch->pool;
    int32_t greatest;
    *count = 0;
    if (input->n_bias || options->repetition_penalty != 1 || options->presence_penalty != 0 ||
        options->frequency_penalty != 0 || options->no_repeat_ngram_size > 0) { /* these change a copy of the logits */
        memcpy(scratch->logits, logits, (size_t)scratch->n_vocab * sizeof(float));
        for (int64_t i = 0; i < input->n_bias; i++) scratch->logits[input->bias[i].token] += input->bias[i].bias;
        sampler_penalize(scratch, input);
        sampler_penalize_counts(scratch, input);
        sampler_forbid_repetition(scratch, input);
        logits = scratch->logits;
    }
    const int status = logits_scan(logits, scratch->n_vocab, scratch->block_max, &greatest);
    if (status != SAMPLE_OK) return status;
    if (options->temperature == 0) {
        sampler_gather(scratch, logits, greatest);
        *count = 1; /* gathered by id, so the first has the lowest */
        return SAMPLE_OK;
    }

    int64_t n = sampler_gather(scratch, logits, sampler_floor(scratch, options->top_k));
    if (options->top_k > 0) n = candidates_leading(c, n, (double)options->top_k);
    const double top = order_value(greatest);
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        c[i].weight = exp_negative((order_value(rank_key(c[i].rank)) - top) / options->temperature);
        total += c[i].weight;
    }
    if (options->top_p < 1) n = candidates_leading(c, n, options->top_p * total);
    if (options->min_p > 0) {
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++)
            if (c[i].weight >= options->min_p) c[kept++] = c[i]; /* the most likely token's weight is 1 */
        n = kept;
    }
    *count = n;
    return SAMPLE_OK;
}

/* Samples a token; the arguments are those of sampler_choose. Takes a number from `random` only if there is a choice.
 * OUT token, on SAMPLE_OK. */
static inline int sampler_sample(SamplerScratch *scratch, const float *logits, const SamplerInput *input,
                                 Random *random, int32_t *token) {
    const Candidate *c = scratch->pool;
    int64_t count, chosen = 0;
    const int status = sampler_choose(scratch, logits, input, &count);
    if (status != SAMPLE_OK) return status;
    if (count > 1) {
        double total = 0.0;
        for (int64_t i = 0; i < count; i++) total += c[i].weight;
        double at = random_unit(random) * total;
        for (int64_t i = 0; i < count; i++) {
            at -= c[i].weight;
            if (at < 0) {
                chosen = i;
                break;
            } /* if rounding keeps this from being reached, the first candidate is chosen */
        }
    }
    *token = rank_token(c[chosen].rank);
    return SAMPLE_OK;
}

#endif
