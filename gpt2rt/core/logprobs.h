/* Log probabilities: of the model's own distribution, before any sampling option; the same bits on every machine. */
#ifndef GPT2RT_LOGPROBS_H
#define GPT2RT_LOGPROBS_H

#include "sampler.h"

#define MAX_TOP_LOGPROBS 32

/* The log probability of a token, and the most likely tokens in its place. */
typedef struct {
    double logprob;
    int n_top; /* -1: nothing was recorded */
    int32_t top_ids[MAX_TOP_LOGPROBS];     /* (n_top) */
    double top_logprobs[MAX_TOP_LOGPROBS]; /* (n_top) descending */
} Score;

typedef struct {
    double greatest;  /* logit */
    double log_total; /* ln of the sum of e^(logit - greatest) */
} LogSoftmax;

static inline double log_softmax(const LogSoftmax *softmax, double logit) {
    return (logit - softmax->greatest) - softmax->log_total;
}

/* OUT softmax of n logits, on SAMPLE_OK. Eight partial sums, then a fixed tree. */
static inline int log_softmax_new(LogSoftmax *softmax, const float *logits, int64_t n) {
    double sums[8] = {0};
    int32_t key;
    const int status = logits_scan(logits, n, NULL, &key);
    if (status != SAMPLE_OK) return status;
    const double greatest = order_value(key);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] += exp_negative((double)logits[i + lane] - greatest);
    for (int lane = 0; i < n; i++, lane++) sums[lane] += exp_negative((double)logits[i] - greatest);
    softmax->greatest = greatest;
    softmax->log_total = log_positive(((sums[0] + sums[4]) + (sums[2] + sums[6])) +
                                      ((sums[1] + sums[5]) + (sums[3] + sums[7])));
    return SAMPLE_OK;
}

/* Returns the log probability (natural) of a token; NaN if the logits are not finite or all are minus infinity. */
static inline double token_logprob(const float *logits, int64_t n_vocab, int32_t token) {
    static const uint64_t nan_bits = 0x7FF8000000000000u;
    LogSoftmax softmax;
    double nan;
    memcpy(&nan, &nan_bits, 8);
    return log_softmax_new(&softmax, logits, n_vocab) == SAMPLE_OK ? log_softmax(&softmax, logits[token]) : nan;
}

/* Finds the k, 1 to n_vocab, most likely tokens, descending, lower ids first if tied. OUT ids (k), logprobs (k). */
static inline void top_of_softmax(SamplerScratch *scratch, const LogSoftmax *softmax, const float *logits, int64_t k,
                                  int32_t *ids, double *logprobs) {
    Candidate *c = scratch->pool;
    int32_t greatest;
    logits_scan(logits, scratch->n_vocab, scratch->block_max, &greatest);
    int64_t n = sampler_gather(scratch, logits, sampler_floor(scratch, k));
    if (n < k) n = sampler_gather(scratch, logits, ORDER_MINUS_INFINITY); /* forbidden tokens are needed too */
    candidates_leading(c, n, (double)k);
    candidates_sort(c, k);
    for (int64_t i = 0; i < k; i++) {
        ids[i] = rank_token(c[i].rank);
        logprobs[i] = log_softmax(softmax, order_value(rank_key(c[i].rank)));
    }
}

/* The same, for any k <= n_vocab. Returns SAMPLE_OK or what is wrong with the logits. */
static inline int top_logprobs(SamplerScratch *scratch, const float *logits, int64_t k, int32_t *ids,
                               double *logprobs) {
    LogSoftmax softmax;
    const int status = log_softmax_new(&softmax, logits, scratch->n_vocab);
    if (status == SAMPLE_OK && k > 0) top_of_softmax(scratch, &softmax, logits, k, ids, logprobs);
    return status;
}

/* Computes a token's score from the logits before it; the scratch is used only if n_top > 0. OUT score; it has none of
 * the most likely tokens if the logits are not finite. */
static inline void score_token(SamplerScratch *scratch, const float *logits, int64_t n_vocab, int32_t token, int n_top,
                               Score *score) {
    LogSoftmax softmax;
    score->n_top = 0;
    if (n_top <= 0 || log_softmax_new(&softmax, logits, n_vocab) != SAMPLE_OK) {
        score->logprob = token_logprob(logits, n_vocab, token);
        return;
    }
    score->logprob = log_softmax(&softmax, logits[token]);
    score->n_top = n_top;
    top_of_softmax(scratch, &softmax, logits, n_top, score->top_ids, score->top_logprobs);
}

#endif
