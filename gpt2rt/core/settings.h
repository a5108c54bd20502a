/* The sampling options of the standalone program: names, limits and meanings, as gpt2rt/sampling.py has them, and
 * numbers as text. */
#ifndef GPT2RT_SETTINGS_H
#define GPT2RT_SETTINGS_H

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "sampler.h"

typedef enum { SETTING_REAL, SETTING_FLOAT, SETTING_WHOLE } SettingKind;

typedef struct {
    const char *name;
    SettingKind kind;
    size_t offset; /* in SamplingOptions, of a double, a float or an int64_t */
    double least, most;
    const char *meaning;
} Setting;

#define N_SETTINGS 9
#define SETTING(name, kind) #name, kind, offsetof(SamplingOptions, name)

static const Setting SETTINGS[N_SETTINGS] = {
    {SETTING(temperature, SETTING_REAL), 0, 100, "Divide the logits by X: below 1 safer, above 1 wilder; 0 is greedy."},
    {SETTING(top_k, SETTING_WHOLE), 0, 1 << 20, "Sample from the N most likely tokens; 0 for all."},
    {SETTING(top_p, SETTING_REAL), 0, 1,
     "Sample from the most likely tokens that together have probability X; 1 for all."},
    {SETTING(min_p, SETTING_REAL), 0, 1,
     "Sample from tokens at least X times as likely as the most likely one; 0 for all."},
    {SETTING(repetition_penalty, SETTING_FLOAT), 0.1, 100,
     "Make recently generated tokens less likely by an X above 1; 1 is off."},
    {SETTING(repeat_last_n, SETTING_WHOLE), 0, 1 << 16, "Count the last N generated tokens as recent."},
    {SETTING(presence_penalty, SETTING_REAL), -2, 2, "Subtract X from the logits of all generated tokens; 0 is off."},
    {SETTING(frequency_penalty, SETTING_REAL), -2, 2,
     "Subtract X from a token's logit each time it is generated; 0 is off."},
    {SETTING(no_repeat_ngram_size, SETTING_WHOLE), 0, 1 << 10,
     "Never generate the same N tokens in a row twice; 0 is off."},
};

/* The defaults: of a text that is continued, and of a chat. */
static const SamplingOptions GENERATE_DEFAULTS = {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .repeat_last_n = 64,
                                                  .repetition_penalty = 1};
static const SamplingOptions CHAT_DEFAULTS = {.temperature = 0.7, .top_k = 40, .top_p = 0.9, .repeat_last_n = 64,
                                              .repetition_penalty = 1.05f, .no_repeat_ngram_size = 4};

static inline double setting_value(const Setting *setting, const SamplingOptions *options) {
    const char *at = (const char *)options + setting->offset;
    double real;
    float single;
    int64_t whole;
    if (setting->kind == SETTING_FLOAT) return memcpy(&single, at, sizeof(single)), single;
    if (setting->kind == SETTING_WHOLE) return memcpy(&whole, at, sizeof(whole)), (double)whole;
    return memcpy(&real, at, sizeof(real)), real;
}

static inline void setting_change(const Setting *setting, SamplingOptions *options, double value) {
    char *at = (char *)options + setting->offset;
    const float single = (float)value;
    const int64_t whole = (int64_t)value;
    if (setting->kind == SETTING_FLOAT)
        memcpy(at, &single, sizeof(single));
    else if (setting->kind == SETTING_WHOLE)
        memcpy(at, &whole, sizeof(whole));
    else
        memcpy(at, &value, sizeof(value));
}

/* Returns the setting of a name, whose words may be separated by - as well; or NULL. */
static inline const Setting *setting_named(const char *name, size_t n) {
    for (int i = 0; i < N_SETTINGS; i++) {
        const char *known = SETTINGS[i].name;
        size_t same = 0;
        while (same < n && known[same] && (name[same] == '-' ? '_' : name[same]) == known[same]) same++;
        if (same == n && !known[n]) return &SETTINGS[i];
    }
    return NULL;
}

/* Writes a number of at most 1e16 in the fewest digits that give it back, as Python does. IN: whether it is an f32. */
static inline void number_shown(char text[32], double value, int is_single) {
    const int is_tiny = value > -1e-4 && value < 1e-4; /* it has an exponent */
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 28, "%.*g", digits, value);
        const double back = strtod(text, NULL);
        const int is_back = back == value || (is_single && (float)back == (float)value);
        if (is_back && (is_tiny || !strchr(text, 'e'))) break;
    }
    if (!strpbrk(text, ".en")) strcat(text, ".0");
}

static inline void setting_shown(char text[32], const Setting *setting, const SamplingOptions *options) {
    const double value = setting_value(setting, options);
    if (setting->kind == SETTING_WHOLE)
        snprintf(text, 32, "%" PRId64, (int64_t)value);
    else
        number_shown(text, value, setting->kind == SETTING_FLOAT);
}

/* Reads a whole number. Returns 0 if the text is none, or out of range. OUT: value, problem. */
static inline int whole_number(const char *name, const char *text, uint64_t least, uint64_t most, uint64_t *value,
                               Problem *problem) {
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && !errno && *value >= least && *value <= most) return 1;
    return problem_set(problem, "%s: got '%.40s', expected a whole number from %" PRIu64 " to %" PRIu64, name, text,
                       least, most);
}

/* Reads a setting. Returns 0 if the text is no such number. OUT: options, problem. */
static inline int setting_read(const Setting *setting, const char *name, const char *text, SamplingOptions *options,
                               Problem *problem) {
    char *end;
    uint64_t whole;
    if (setting->kind == SETTING_WHOLE) {
        if (!whole_number(name, text, (uint64_t)setting->least, (uint64_t)setting->most, &whole, problem)) return 0;
        return setting_change(setting, options, (double)whole), 1;
    }
    const double real = strtod(text, &end);
    if (end == text || *end || !(real >= setting->least && real <= setting->most)) {
        char least[32], most[32];
        number_shown(least, setting->least, 0), number_shown(most, setting->most, 0);
        return problem_set(problem, "%s: got '%.40s', expected a number from %s to %s", name, text, least, most);
    }
    return setting_change(setting, options, real), 1;
}

#endif
