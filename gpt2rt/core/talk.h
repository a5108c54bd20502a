/* The chat of the standalone program, at a terminal or in a pipe: messages and commands, until one says to leave. */
#ifndef GPT2RT_TALK_H
#define GPT2RT_TALK_H

#include "platform.h"

#include "json.h"
#include "random_seed.h"
#include "turns.h"

static const char COMMANDS[] =
    "/help, /?          list the commands\n"
    "/retry             answer the last message again, differently\n"
    "/undo              discard the last turn\n"
    "/reset             drop all turns\n"
    "/set               list the settings\n"
    "/set NAME          explain a setting\n"
    "/set NAME VALUE    change a setting\n"
    "/stats             print the speed, the use of the context and the seed\n"
    "/exit, /quit       leave; so does Ctrl-D (Ctrl-C stops an answer)";

/* --- commands ---------------------------------------------------------------------------------------------------- */

static inline void talk_setting(const Talk *t, const char *name, const char *value, const char *initial) {
    if (!initial)
        note(t, "%-22s%s", name, value);
    else if (!strcmp(value, initial))
        note(t, "%-22s%-8sdefault", name, value);
    else
        note(t, "%-22s%-8schanged; default %s", name, value, initial);
}

/* Prints a setting, or all if the name is empty. Returns whether there is one. */
static inline int talk_show_settings(const Talk *t, const char *name) {
    char value[32], initial[32];
    int n_shown = 0;
    for (int i = 0; i < N_SETTINGS; i++) {
        if (*name && setting_named(name, strlen(name)) != &SETTINGS[i]) continue;
        setting_shown(value, &SETTINGS[i], &t->sampling);
        setting_shown(initial, &SETTINGS[i], &CHAT_DEFAULTS);
        talk_setting(t, SETTINGS[i].name, value, initial);
        if (*name) note(t, "%s", SETTINGS[i].meaning);
        n_shown++;
    }
    if (!*name || !strcmp(name, "max_tokens")) {
        const int64_t n_ctx = t->model->file.shape.n_ctx;
        snprintf(value, sizeof(value), "%" PRId64, t->max_tokens);
        snprintf(initial, sizeof(initial), "%" PRId64, n_ctx < CHAT_MAX_TOKENS ? n_ctx : CHAT_MAX_TOKENS);
        talk_setting(t, "max_tokens", value, initial);
        n_shown++;
    }
    if (!*name || !strcmp(name, "seed")) {
        snprintf(value, sizeof(value), "%" PRIu64, t->seed);
        talk_setting(t, "seed", value, NULL);
        n_shown++;
    }
    return n_shown;
}

/* /set: IN: what follows it, which is changed. */
static inline void talk_set(Talk *t, char *argument) {
    char *value = strchr(argument, ' '), label[80];
    Problem problem;
    uint64_t whole;
    int is_read = 1;
    if (value) *value++ = 0;
    while (value && *value == ' ') value++;
    for (char *at = argument; *at; at++) *at = *at == '-' ? '_' : *at;
    const Setting *setting = setting_named(argument, strlen(argument));
    snprintf(label, sizeof(label), "/set %.40s", argument);
    if (!value || !*value) {
        if (talk_show_settings(t, argument)) return;
        is_read = 0;
    }
    if (is_read && setting) {
        is_read = setting_read(setting, label, value, &t->sampling, &problem);
    } else if (is_read && !strcmp(argument, "max_tokens")) {
        is_read = whole_number(label, value, 1, (uint64_t)t->model->file.shape.n_ctx, &whole, &problem);
        if (is_read) t->max_tokens = (int64_t)whole;
    } else if (is_read && !strcmp(argument, "seed")) {
        is_read = whole_number(label, value, 0, UINT64_MAX, &whole, &problem);
        if (is_read) t->seed = whole, random_seed(&t->sequence.sampler.random, whole);
    } else {
        is_read = problem_set(&problem, "setting '%.40s': unknown (/set lists the settings)", argument);
    }
    if (is_read)
        note(t, "(%s is now %s)", argument, value);
    else
        refuse(t, problem.text);
}

static inline void talk_stats(const Talk *t) {
    const Sampling *last = &t->last;
    char read[32], sampled[32];
    note(t, "context   %" PRId64 " of %" PRId64 " tokens, %zu turn%s, %zu dropped", t->sequence.length,
         t->model->file.shape.n_ctx, t->n_turns, t->n_turns == 1 ? "" : "s", t->n_dropped);
    if (last->begin > 0) {
        speed_shown(read, (uint64_t)last->n_prompt, last->first - last->begin);
        speed_shown(sampled, last->n_sampled, last->last - last->first);
        note(t, "prompt    %" PRId64 " token%s read, %s", last->n_prompt, last->n_prompt == 1 ? "" : "s", read);
        note(t, "answer    %" PRIu64 " token%s sampled, %s", last->n_sampled, last->n_sampled == 1 ? "" : "s", sampled);
    }
    note(t, "threads   %d", t->model->n_threads);
    note(t, "seed      %" PRIu64, t->seed);
}

/* Obeys a command. IN: the line after the slash, stripped, which is changed. */
static inline void talk_obey(Talk *t, char *line) {
    static const char *const NAMES[] = {"help", "retry", "undo", "reset", "set", "stats", "exit", "quit"};
    char *argument = strchr(line, ' ');
    const char *name = line, *closest = NULL;
    Problem problem;
    int is_known = 0;
    if (argument) *argument++ = 0;
    while (argument && *argument == ' ') argument++;
    if (!strcmp(name, "?")) name = "help";
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(*NAMES); i++) {
        is_known |= !strcmp(name, NAMES[i]);
        if (!closest && !strncmp(name, NAMES[i], strlen(name))) closest = NAMES[i];
    }
    if (!is_known) {
        problem_set(&problem, "command /%.40s: unknown (%s%s%s/help lists the commands)", name,
                    closest ? "did you mean /" : "", closest ? closest : "", closest ? "? " : "");
        refuse(t, problem.text);
    } else if (argument && *argument && strcmp(name, "set")) {
        problem_set(&problem, "/%s: got '%.40s', expected nothing after the command", name, argument);
        refuse(t, problem.text);
    } else if (!strcmp(name, "help")) {
        note(t, "%s", COMMANDS);
        if (t->has_editor) note(t, "\nAlt-Enter adds a line to the message; pasted lines are one message.");
    } else if (!strcmp(name, "retry") && t->n_turns) {
        talk_answer(t, t->turns[t->n_turns - 1].user, 1);
    } else if (!strcmp(name, "retry")) {
        refuse(t, "retry: there is no answer yet");
    } else if (!strcmp(name, "undo") && t->n_turns) {
        Turn *turn = &t->turns[--t->n_turns];
        note(t, "(discarded: %.*s)", (int)(turn->user.n < 240 ? turn->user.n : 240), (const char *)turn->user.at);
        turn_free(turn);
        if (t->n_dropped > t->n_turns) t->n_dropped = t->n_turns;
    } else if (!strcmp(name, "undo")) {
        refuse(t, "undo: there is no turn to discard");
    } else if (!strcmp(name, "reset")) {
        while (t->n_turns) turn_free(&t->turns[--t->n_turns]);
        t->n_dropped = 0;
        note(t, "(all turns dropped)");
    } else if (!strcmp(name, "set")) {
        char nothing[1] = "";
        talk_set(t, argument ? argument : nothing);
    } else {
        talk_stats(t);
    }
}

/* Returns whether a text is a word, in letters of any case. */
static inline int is_word(Text text, const char *word) {
    for (size_t i = 0; i < text.n; i++)
        if (!word[i] || (text.at[i] >= 'A' && text.at[i] <= 'Z' ? text.at[i] + 32 : text.at[i]) != word[i]) return 0;
    return !word[text.n];
}

/* Returns whether a message is a command to leave. At a terminal, a bare exit is one if it is repeated. */
static inline int talk_is_leaving(Talk *t, Text message) {
    const int is_bare = is_word(message, "exit") || is_word(message, "quit"), had_hinted = t->has_hinted;
    t->has_hinted = is_bare && t->is_interactive;
    return is_word(message, "/exit") || is_word(message, "/quit") || (is_bare && had_hinted);
}

/* Obeys a command, or says a message to the model. What has several lines is a message. */
static inline void talk_react(Talk *t, Text line) {
    const Text stripped = text_strip(line);
    Buffer message = {0};
    if (!stripped.n) return;
    if (t->has_hinted) {
        note(t, "(type /exit to leave, or %.*s once more)", (int)stripped.n, (const char *)stripped.at);
        return;
    }
    if (t->is_interactive && is_word(stripped, "help")) note(t, "(/help lists the commands)");
    if (line.at[0] == '/' && !memchr(line.at, '\n', line.n)) {
        const Text command = text_strip((Text){line.at + 1, line.n - 1});
        if (buffer_add(&message, command) && buffer_add(&message, (Text){(const uint8_t *)"", 1}))
            talk_obey(t, (char *)message.at);
        else
            refuse(t, "not enough memory");
    } else if (!chat_clean(&t->format, &message, line)) {
        refuse(t, "not enough memory");
    } else if (!message.n) {
        refuse(t, "message: it is empty, expected some text");
    } else {
        talk_answer(t, buffer_text(&message), 0);
    }
    buffer_close(&message);
}

/* --- the talk ---------------------------------------------------------------------------------------------------- */

/* Reads the texts of the metadata's `chat` into memory that the caller frees, and the model's name, NULL if it has none.
 * Returns an exit status, 0 if all is well. */
static inline int read_settings(const Model *m, ChatSettings *own, Text *name, Buffer *memory) {
    const Section *section = &m->file.sections[SECTION_METADATA];
    const uint8_t *end = section->data + section->length;
    const Json document = json_open(section->data, (size_t)section->length);
    const Json chat = json_member(document, end, "chat"), title = json_member(document, end, "name");
    const struct {
        const char *name;
        Text *text;
    } members[] = {{"format", &own->format}, {"user_name", &own->user_name}, {"bot_name", &own->bot_name},
                   {"opening", &own->opening}, {"template", &own->template},
                   {"opening_template", &own->opening_template}};
    if (!json_is(document, '{'))
        return complain("%s: section 'metadata' is not a JSON object (--verify checks it)", m->name), EXIT_ERROR;
    if (chat && !json_is(chat, '{'))
        return complain("%s: metadata 'chat': expected an object", m->name), EXIT_ERROR;
    if (!buffer_reserve(memory, (size_t)section->length)) return no_memory(); /* no text is longer than its JSON */
    for (size_t i = 0; i <= sizeof(members) / sizeof(*members); i++) {
        const int is_title = i == sizeof(members) / sizeof(*members);
        const Json member = is_title ? title : json_member(chat, end, members[i].name);
        if (!member || (is_title && !json_is(member, '"'))) continue;
        if (!json_is(member, '"'))
            return complain("%s: metadata 'chat': %s: expected text", m->name, members[i].name), EXIT_ERROR;
        Text *text = is_title ? name : members[i].text;
        *text = (Text){memory->at + memory->n, json_text(member, end, memory->at + memory->n)};
        memory->n += text->n;
    }
    return 0;
}

/* Prints what this is and how to leave; in a pipe, only what is worth a log. */
static inline void talk_greet(const Talk *t, Text name, int is_sampled) {
    const ChatFormat *f = &t->format;
    if (!t->is_interactive) {
        if (is_sampled) note(t, "seed %" PRIu64, t->seed);
        return;
    }
    if (!name.at) name = text_of(t->model->name);
    note(t, "This is %.*s, a GPT-2 of %.1f million parameters (seed %" PRIu64 "). It knows little and makes things up.",
         (int)(name.n < 200 ? name.n : 200), (const char *)name.at,
         (double)shape_parameters(&t->model->file.shape) / 1e6, t->seed);
    if (f->is_scene)
        note(t, "It was not trained to chat, so it continues a scene in which you are %.*s and it is %.*s (--user-name and"
                " --bot-name change the names).",
             (int)f->user_name.n, (const char *)f->user_name.at, (int)f->bot_name.n, (const char *)f->bot_name.at);
    note(t, "Ctrl-D or /exit leaves, Ctrl-C stops an answer, /help lists the commands.");
}

/* Reads the next message or command at a terminal. OUT: line. */
static inline InputStatus talk_edit(Talk *t, const char *prompt, Buffer *line) {
    for (;;) {
        const LineStatus status = line_read(&t->editor, prompt);
        if (status == LINE_NO_MEMORY) return INPUT_NO_MEMORY;
        if (status == LINE_END) return INPUT_END;
        if (status == LINE_OK)
            return buffer_add(line, (Text){(const uint8_t *)t->editor.text, t->editor.n}) ? INPUT_OK : INPUT_NO_MEMORY;
        note(t, "(Ctrl-D or /exit leaves)");
    }
}

/* Reads the next message or command. OUT: line. */
static inline InputStatus talk_read(Talk *t, Buffer *line) {
    line->n = 0;
    if (!t->is_interactive) return read_line(line);
    const ChatFormat *f = &t->format;
    char prompt[MAX_NAME * 4 + 24] = "> ";
    if (f->is_talk)
        snprintf(prompt, sizeof(prompt), "%s%.*s: %s", t->has_colors ? BOLD_GREEN : "", (int)f->user_name.n,
                 (const char *)f->user_name.at, t->has_colors ? PLAIN : "");
    if (t->has_editor) return talk_edit(t, prompt, line);
    fputs(prompt, stdout);
    output_flush();
    return read_line(line);
}

static inline Text option_text(const char *option) {
    return option ? text_of(option) : (Text){NULL, 0};
}

/* Opens the talk. Returns an exit status, 0 if all is well. */
static inline int talk_open(Talk *t, const Options *o) {
    Model *m = t->model;
    const int64_t n_ctx = m->file.shape.n_ctx;
    const ChatSettings options = {.format = option_text(o->chat_format), .user_name = option_text(o->user_name),
                                  .bot_name = option_text(o->bot_name)};
    ChatSettings own = {0};
    Text name = {NULL, 0};
    Buffer memory = {0};
    Problem problem;
    int status = read_settings(m, &own, &name, &memory);
    if (!status) {
        const ChatStatus opened = chat_format_open(&t->format, &m->tokenizer, (size_t)n_ctx, &own, &options, &problem);
        if (opened == CHAT_NO_MEMORY) status = no_memory();
        else if (opened != CHAT_OK || !chat_opening_fits(&t->format, (size_t)n_ctx, &problem))
            complain("%s", problem.text), status = opened == CHAT_DAMAGED ? EXIT_ERROR : EXIT_USAGE;
    }
    t->sampling = o->sampling;
    t->seed = o->has_seed ? o->seed : system_seed();
    t->max_tokens = o->max_tokens ? o->max_tokens : n_ctx < CHAT_MAX_TOKENS ? n_ctx : CHAT_MAX_TOKENS;
    if (!status && t->max_tokens > n_ctx) {
        complain("--max-tokens: got %" PRId64 ", expected a whole number from 1 to %" PRId64, t->max_tokens, n_ctx);
        status = EXIT_USAGE;
    }
    if (!status) {
        const size_t n_exempt = t->format.exempt.n;
        int32_t *exempt = malloc((n_exempt + 1) * sizeof(int32_t));
        t->last.tokens = malloc((size_t)(n_ctx + 1) * sizeof(uint32_t));
        if (!sequence_open(&t->sequence, &m->network) || !exempt || !t->last.tokens) {
            free(exempt);
            status = no_memory();
        } else {
            for (size_t i = 0; i < n_exempt; i++) exempt[i] = (int32_t)t->format.exempt.ids[i];
            sequence_sample(m, &t->sequence, &t->sampling, NULL, 0, exempt, (int64_t)n_exempt);
            random_seed(&t->sequence.sampler.random, t->seed);
            for (int i = 0; i < t->format.n_stops; i++) t->stops[t->n_stops++] = t->format.stops[i];
            for (int i = 0; i < o->n_stops; i++) t->stops[t->n_stops++] = o->stops[i];
            talk_greet(t, name, !o->has_seed);
        }
    }
    buffer_close(&memory);
    return status;
}

/* Talks until the end. Returns an exit status. */
static inline int talk(Model *m, const Options *o) {
    Talk t = {.model = m, .is_interactive = is_terminal(stdin) && is_terminal(stdout)};
    Buffer line = {0};
    t.has_editor = t.is_interactive && console_possible();
    t.has_colors = t.is_interactive && has_colors();
    int status = talk_open(&t, o);
    while (!status && !output_error) {
        const InputStatus read = talk_read(&t, &line);
        status = input_problem(read);
        if (read != INPUT_OK || talk_is_leaving(&t, text_strip(buffer_text(&line)))) break;
        talk_react(&t, buffer_text(&line));
        if (t.status == EXIT_INTERRUPTED) status = EXIT_INTERRUPTED;
    }
    if (!status) status = t.status;
    buffer_close(&line);
    talk_close(&t);
    return status;
}

#endif
