/* The settings of a chat: their texts, the names and templates that are valid, and the scene for models that were not
 * trained to chat. */
#ifndef GPT2RT_CHAT_SETTINGS_H
#define GPT2RT_CHAT_SETTINGS_H

#include <inttypes.h>
#include <stdio.h>

#include "printable.h"
#include "problem.h"
#include "text.h"

#define MAX_NAME 40           /* characters */
#define MAX_OPENING (1 << 16) /* characters */

/* What a model file's metadata has in `chat`, or what overrides it. A text whose `at` is NULL is absent. */
typedef struct {
    Text format, user_name, bot_name, opening;
    Text template, opening_template; /* only of a file */
} ChatSettings;

typedef enum { CHAT_PLAIN, CHAT_DIALOGPT, CHAT_TEMPLATE, CHAT_RAW, N_CHAT_FORMATS } ChatKind;

static const char *const CHAT_FORMATS[N_CHAT_FORMATS] = {"plain", "dialogpt", "template", "raw"};

static const char *const DEFAULT_NAMES[N_CHAT_FORMATS][2] = {
    {"Sam", "Emma"}, {"User", "Bot"}, {"User", "Bot"}, {"User", "Bot"}};

#define SCENE_LINES 12

/* For models that were not trained to chat: a scene, an empty line, and turns of the kind that is wanted. \1 and \2 are
 * the names of the user and of the bot. */
static const char *const DEFAULT_OPENING[SCENE_LINES] = {
    ("\1 and \2 are good friends who like to talk with each other. \2 is cheerful, kind and curious. She answers in one"
     " or two short sentences, and she always stays on the subject.\n"),
    "\n",
    "\1: Hi \2, how are you today?\n",
    "\2: I'm very well, thank you! I slept late and had pancakes for breakfast. How are you?\n",
    "\1: I'm fine, a bit tired from work. What did you do yesterday?\n",
    "\2: I went for a long walk by the river with my dog. It was sunny, and we saw some ducks.\n",
    "\1: That sounds lovely. Do you like books?\n",
    "\2: Yes, I love to read, most of all stories about travel. Right now I'm reading a novel about a sailor.\n",
    "\1: What would you like for dinner?\n",
    "\2: Maybe pasta with tomatoes and cheese. It's easy to make, and everybody likes it.\n",
    "\1: Good idea! I have to go to the shop first.\n",
    "\2: Then please bring some apples too, and I'll bake a cake for us.\n",
};

#define SHOWN 80 /* characters of a text in a message */

/* Writes the beginning of a text as Python's repr has it. OUT: shown (4 * SHOWN + 16). */
static inline void text_shown(char *shown, Text text) {
    const uint8_t *end = text.at + text.n;
    size_t size, n = 1;
    int has_single = 0, has_double = 0;
    for (size_t i = 0; i < text.n; i++) has_single |= text.at[i] == '\'', has_double |= text.at[i] == '"';
    const char quote = has_single && !has_double ? '"' : '\'';
    *shown++ = quote;
    for (const uint8_t *p = text.at; p < end && n < SHOWN; p += size) {
        const uint32_t c = text_character(p, end, &size);
        const char letter = c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : (char)c;
        char escaped[16];
        if (c == '\\' || c == (uint32_t)quote || c == '\t' || c == '\n' || c == '\r') {
            snprintf(escaped, sizeof(escaped), "\\%c", letter);
        } else if (unicode_is_printable(c)) {
            memcpy(shown, p, size);
            shown += size, n++;
            continue;
        } else {
            const uint32_t byte = c == NO_CHARACTER ? p[0] : c;
            snprintf(escaped, sizeof(escaped), byte < 0x100 ? "\\x%02" PRIx32 : byte < 0x10000 ? "\\u%04" PRIx32
                                                                                              : "\\U%08" PRIx32, byte);
        }
        for (const char *e = escaped; *e && n < SHOWN; n++) *shown++ = *e++;
    }
    if (n < SHOWN) *shown++ = quote;
    *shown = 0;
}

/* Returns whether a name fits in a line before a colon. OUT: problem, if not. */
static inline int name_is_valid(const char *option, Text name, Problem *problem) {
    const uint8_t *end = name.at + name.n;
    size_t size, n = 0;
    int is_valid = 1, was_space = 1;
    for (const uint8_t *p = name.at; p < end && is_valid; p += size, n++) {
        const uint32_t c = text_character(p, end, &size);
        is_valid = c != ':' && unicode_is_printable(c) && !(c == ' ' && was_space) && n < MAX_NAME;
        was_space = c == ' ';
    }
    if (is_valid && n && !was_space) return 1;
    char shown[4 * SHOWN + 16];
    text_shown(shown, name);
    return problem_set(problem, "%s: got %s, expected 1 to %d characters in one line, no colon", option, shown,
                       MAX_NAME);
}

/* Finds the parts of a template between its places, a and then b; a alone if b is NULL. Returns whether it has each
 * place once, in this order. OUT: parts (2 or 3), parts of the template; problem, if it has not. */
static inline int template_parts(Text template, const char *a, const char *b, const char *name, Text *parts,
                                 Problem *problem) {
    const char *places[] = {a, b};
    Text rest = template;
    for (int i = 0; i < 2 && places[i]; i++) {
        const Text place = text_of(places[i]);
        const ptrdiff_t at = text_find(rest, place);
        if (at >= 0) {
            parts[i] = (Text){rest.at, (size_t)at};
            rest = (Text){rest.at + at + place.n, rest.n - (size_t)at - place.n};
            if (text_find(rest, place) < 0) continue;
        }
        char shown[4 * SHOWN + 16];
        text_shown(shown, template);
        return problem_set(problem, "%s: got %s, expected text with %s%s%s in it, once", name, shown, a,
                           b ? " and then " : "", b ? b : "");
    }
    parts[b ? 2 : 1] = rest;
    return 1;
}

/* Returns whether a name is at byte i of a text, and is not the beginning of a longer word. */
static inline int name_is_at(Text text, size_t i, Text name) {
    const uint8_t *after = text.at + i + name.n, *end = text.at + text.n;
    size_t size;
    if (!name.n || !text_begins((Text){text.at + i, text.n - i}, name)) return 0;
    const uint32_t next = after < end ? text_character(after, end, &size) : ' ';
    return next != '_' && !text_is_alphanumeric(next);
}

/* Adds a text with other names in it. Only whole words are replaced. Returns 0 if memory runs out. */
static inline int text_renamed(Buffer *renamed, Text text, const Text olds[2], const Text news[2]) {
    const uint8_t *end = text.at + text.n;
    size_t size;
    int is_inside = 0; /* of a word */
    for (size_t i = 0; i < text.n;) {
        /* Of two equal names, the second counts. */
        const int first = text_equal(olds[0], olds[1]);
        int found = is_inside ? 2 : first;
        while (found < 2 && !name_is_at(text, i, olds[found])) found++;
        if (found < 2) {
            if (!buffer_add(renamed, news[found])) return 0;
            /* The name's last character decides whether a word goes on. */
            const uint8_t *p = text.at + i;
            uint32_t last = 0;
            for (i += olds[found].n; p < text.at + i; p += size) last = text_character(p, end, &size);
            is_inside = last == '_' || text_is_alphanumeric(last);
            continue;
        }
        const uint32_t c = text_character(text.at + i, end, &size);
        if (!buffer_add(renamed, (Text){text.at + i, size})) return 0;
        is_inside = c == '_' || text_is_alphanumeric(c);
        i += size;
    }
    return 1;
}

/* Writes the first lines of the scene. Returns 0 if memory runs out. */
static inline int scene_write(Buffer *scene, int n_lines, Text user_name, Text bot_name) {
    scene->n = 0;
    for (int i = 0; i < n_lines; i++)
        for (const char *p = DEFAULT_OPENING[i]; *p; p++) {
            const Text text = *p == '\1' ? user_name : *p == '\2' ? bot_name : (Text){(const uint8_t *)p, 1};
            if (!buffer_add(scene, text)) return 0;
        }
    return 1;
}

#endif
