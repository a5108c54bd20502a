/* The command line of the standalone program. */
#ifndef GPT2RT_OPTIONS_H
#define GPT2RT_OPTIONS_H

#include <stdint.h>

#include "settings.h"
#include "stops.h"
#include "utf8.h"

#define MAX_THREADS 256

typedef enum { ACTION_CHAT, ACTION_GENERATE, ACTION_INFO, ACTION_VERIFY, ACTION_HELP, ACTION_VERSION } Action;

/* Texts are those of the command line; NULL if they were not given. */
typedef struct {
    Action action;
    const char *model, *prompt, *isa, *chat_format, *user_name, *bot_name;
    StopText stops[MAX_STOPS]; /* (n_stops) */
    int n_stops;
    int echo;             /* print the prompt too */
    int no_mmap;          /* read the model file into memory */
    int has_seed;
    uint64_t seed;
    int64_t max_tokens;   /* 0: not given */
    int threads;          /* 0: not given */
    SamplingOptions sampling;
} Options;

static const char HELP[] =
    "usage: %s%s [OPTIONS]\n"
    "\n"
    "Chat with the model, or continue a text with -p. In a pipe, every line of standard input is a message.\n"
    "\n"
    "  -p, --prompt TEXT         Continue TEXT; - reads it from standard input.\n"
    "  -n, --max-tokens N        Generate at most N tokens.  [default: 200; 120 for an answer in a chat]\n"
    "      --echo                Print the prompt too.\n"
    "      --stop TEXT           Stop before this text; may be repeated.\n"
    "      --seed N              Seed the random numbers with N.  [default: a random seed, which is printed]\n"
    "      --chat-format NAME    Format the chat as plain, dialogpt, template or raw.\n"
    "      --user-name NAME      Set your name in the chat.\n"
    "      --bot-name NAME       Set the model's name.\n"
    "      --threads N           Use at most N threads.\n"
    "      --isa NAME            Use this instruction set.\n"
    "      --no-mmap             Read a model file into memory instead of mapping it.\n"
    "      --info                Show what the model is.\n"
    "      --verify              Check every byte of the model.\n"
    "      --version             Print the version.\n"
    "  -h, --help                Print this.\n"
    "\n"
    "Sampling, with the defaults for a text and for a chat:\n";

static inline void print_help(const char *program, int needs_model) {
    printf(HELP, program, needs_model ? " MODEL" : "");
    for (int i = 0; i < N_SETTINGS; i++) {
        const Setting *setting = &SETTINGS[i];
        char name[32], defaults[2][32];
        snprintf(name, sizeof(name), "%s %c", setting->name, setting->kind == SETTING_WHOLE ? 'N' : 'X');
        for (char *at = name; *at; at++) *at = *at == '_' ? '-' : *at;
        setting_shown(defaults[0], setting, &GENERATE_DEFAULTS);
        setting_shown(defaults[1], setting, &CHAT_DEFAULTS);
        printf("      --%-24s%s  [%s; %s]\n", name, setting->meaning, defaults[0], defaults[1]);
    }
}

/* An option that takes a text. */
typedef struct {
    const char *name, *letter;
    size_t offset; /* in Options */
} TextOption;

/* Returns the name of an option without its dashes, "" for an argument that is none. */
static inline const char *option_name(const char *argument) {
    if (argument[0] != '-' || !argument[1]) return "";
    return argument + 1 + (argument[1] == '-');
}

static inline int option_is(const char *name, size_t n, const char *known) {
    return strlen(known) == n && !memcmp(name, known, n);
}

/* Reads the value of an option. Returns 1 if there is such an option, 0 after a problem, -1 if there is none. */
static inline int option_read(Options *o, const char *name, size_t n, const char *value, Problem *problem) {
    static const TextOption TEXTS[] = {{"prompt", "p", offsetof(Options, prompt)},
                                       {"isa", "", offsetof(Options, isa)},
                                       {"chat-format", "", offsetof(Options, chat_format)},
                                       {"user-name", "", offsetof(Options, user_name)},
                                       {"bot-name", "", offsetof(Options, bot_name)}};
    uint64_t whole;
    for (size_t i = 0; i < sizeof(TEXTS) / sizeof(*TEXTS); i++)
        if (option_is(name, n, TEXTS[i].name) || option_is(name, n, TEXTS[i].letter))
            return memcpy((char *)o + TEXTS[i].offset, &value, sizeof(value)), 1;
    if (option_is(name, n, "n") || option_is(name, n, "max-tokens")) {
        if (!whole_number("--max-tokens", value, 1, INT32_MAX, &whole, problem)) return 0;
        return o->max_tokens = (int64_t)whole, 1;
    }
    if (option_is(name, n, "threads")) {
        if (!whole_number("--threads", value, 1, MAX_THREADS, &whole, problem)) return 0;
        return o->threads = (int)whole, 1;
    }
    if (option_is(name, n, "seed"))
        return o->has_seed = whole_number("--seed", value, 0, UINT64_MAX, &o->seed, problem);
    if (option_is(name, n, "stop")) {
        const size_t size = strlen(value);
        if (size < 1 || size > MAX_STOP_BYTES)
            return problem_set(problem, "--stop: got %zu bytes, expected 1 to %d", size, MAX_STOP_BYTES);
        if (o->n_stops == MAX_STOPS - 2) /* a chat's format has two of its own */
            return problem_set(problem, "--stop: got more than %d texts", MAX_STOPS - 2);
        o->stops[o->n_stops++] = (StopText){(const uint8_t *)value, size};
        return 1;
    }
    const Setting *setting = setting_named(name, n);
    char label[64];
    if (!setting) return -1;
    snprintf(label, sizeof(label), "--%.*s", (int)n, name);
    return setting_read(setting, label, value, &o->sampling, problem);
}

/* Reads an option without a value. Returns whether there is such an option. */
static inline int flag_read(Options *o, const char *name) {
    static const struct {
        const char *name;
        Action action;
    } ACTIONS[] = {{"info", ACTION_INFO}, {"verify", ACTION_VERIFY}, {"version", ACTION_VERSION},
                   {"help", ACTION_HELP}, {"h", ACTION_HELP}};
    for (size_t i = 0; i < sizeof(ACTIONS) / sizeof(*ACTIONS); i++)
        if (!strcmp(name, ACTIONS[i].name)) return o->action = ACTIONS[i].action, 1;
    if (!strcmp(name, "no-mmap")) return o->no_mmap = 1;
    return !strcmp(name, "echo") ? o->echo = 1 : 0;
}

/* Returns 0 after a problem. IN: the arguments, without the program's name; whether one may be the model. */
static inline int options_read(Options *o, int n, char **arguments, int needs_model, Problem *problem) {
    memset(o, 0, sizeof(*o));
    o->sampling = CHAT_DEFAULTS;
    for (int i = 0; i < n; i++) { /* the defaults depend on it */
        const char *name = option_name(arguments[i]);
        if (!strcmp(name, "p") || !strcmp(name, "prompt") || !strncmp(name, "prompt=", 7))
            o->sampling = GENERATE_DEFAULTS, o->action = ACTION_GENERATE;
    }
    for (int i = 0; i < n; i++) {
        const char *argument = arguments[i], *name = option_name(argument), *value = strchr(name, '=');
        if (!utf8_is_valid((const uint8_t *)argument, strlen(argument)))
            return problem_set(problem, "argument %d: got bytes that are not UTF-8", i + 1);
        if (!*name) {
            if (o->model || !needs_model)
                return problem_set(problem, "got '%.80s', expected options (-p \"TEXT\" continues a text)", argument);
            o->model = argument;
            continue;
        }
        if (!value && flag_read(o, name)) continue;
        const size_t size = value ? (size_t)(value - name) : strlen(name);
        const int is_last = !value && i + 1 == n;
        const int found = option_read(o, name, size, value ? value + 1 : is_last ? "" : arguments[i + 1], problem);
        if (found < 0) return problem_set(problem, "%.80s: no such option (--help lists them)", argument);
        if (is_last) return problem_set(problem, "%.80s: expected a value after it", argument);
        if (!found) return 0;
        i += !value;
    }
    return 1;
}

#endif
