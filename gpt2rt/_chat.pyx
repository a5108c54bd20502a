# cython: language_level=3, freethreading_compatible=True
"""The policy of a chat: formats, which turns the model reads, and when an answer is sampled again. Python's side of
`core/chat_format.h`, `core/conversation.h` and `core/reply.h`, which do the work.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc

from gpt2rt._tokenizer cimport (
    MAX_STOPS,
    Buffer,
    CTokenizer,
    Encoding,
    FINISH_NONE,
    FinishReason,
    Problem,
    StopText,
    Text,
    Tokenizer,
    buffer_close,
    signal_raised,
)
from gpt2rt.errors import ContextFullError, UsageError, VocabularyError

cdef extern from "text.h" nogil:
    Text buffer_text(const Buffer* b)

cdef extern from "words.h" nogil:
    bint c_words_of "words_of"(Buffer* words, Text text)

cdef extern from "chat_format.h" nogil:
    ctypedef struct ChatSettings:
        Text format, user_name, bot_name, opening, template, opening_template
    ctypedef enum ChatStatus:
        CHAT_OK, CHAT_STOPPED, CHAT_NO_MEMORY, CHAT_DAMAGED, CHAT_REFUSED, CHAT_FULL
    ctypedef struct CChatFormat "ChatFormat":
        int kind
        Text user_name, bot_name, opening
        Encoding opening_tokens, closing_tokens, exempt
        StopText* stops
        int n_stops, turns_kept
        bint is_talk, is_scene
    const char** CHAT_FORMATS
    bint text_clean(Buffer* line, Text text)
    bint template_parts(Text template, const char* a, const char* b, const char* name, Text* parts, Problem* problem)
    ChatStatus chat_format_open(CChatFormat* f, const CTokenizer* tokenizer, size_t n_ctx, const ChatSettings* own,
                                const ChatSettings* options, Problem* problem)
    void chat_format_close(CChatFormat* f)
    bint chat_opening_fits(const CChatFormat* f, size_t n_ctx, Problem* problem)
    bint chat_clean(const CChatFormat* f, Buffer* cleaned, Text message)
    ChatStatus chat_prompt(const CChatFormat* f, Encoding* ids, Text message)
    ChatStatus chat_answer(const CChatFormat* f, Encoding* ids, Text answer)

cdef extern from "conversation.h" nogil:
    enum: CHAT_MAX_TOKENS, ANSWERS_REMEMBERED
    ctypedef struct CTurn "Turn":
        Text user, answer
        const uint32_t* tokens
        size_t n_tokens
    ChatStatus conversation_prompt(const CChatFormat* f, const CTurn* turns, size_t n_turns, Text message, size_t n_ctx,
                                   size_t max_tokens, Encoding* ids, size_t* n_dropped)
    bint conversation_earlier(const CChatFormat* f, const CTurn* turns, size_t n_turns, Text replaced, Text message,
                              Buffer* earlier)
    ChatStatus conversation_answer_tokens(const uint32_t* sampled, size_t n, const StopText* stops, int n_stops,
                                          bint is_interrupted, Encoding* ids)
    ChatStatus conversation_answer_text(const CTokenizer* t, const uint32_t* tokens, size_t n, bint is_stripped,
                                        Buffer* text, Problem* problem)

cdef extern from "reply.h" nogil:
    enum: C_MAX_DRAFTS "MAX_DRAFTS"
    ctypedef struct CReply "Reply":
        Buffer held
        size_t n_returned
        bint is_begun
        FinishReason reason
    ctypedef enum ReplyStatus:
        REPLY_OK, REPLY_AGAIN, REPLY_NO_MEMORY
    bint reply_open(CReply* r, bint is_talk, double temperature, Text earlier)
    void reply_close(CReply* r)
    double reply_temperature(const CReply* r)
    ReplyStatus reply_accept(CReply* r, Text piece, FinishReason reason, Text* text)

MAX_TOKENS = CHAT_MAX_TOKENS  # of an answer, unless the caller says otherwise
MAX_DRAFTS = C_MAX_DRAFTS  # of an answer: blank ones and repeated ones are sampled again

cdef tuple REASONS = (None, "stop", "length", "interrupted", "blank")  # as FINISH_REASONS


# --- texts and ids across the border -------------------------------------------------------------------------------


cdef bytes encoded(text):
    """Return a text in UTF-8; a lone surrogate is a character like any other here."""
    return text.encode("utf-8", "surrogatepass")


cdef Text text_in(bytes content):
    """Return a text that lives as long as `content`."""
    return Text(<const uint8_t*><const char*>content, <size_t>len(content))


cdef str decoded(Text text):
    return PyUnicode_DecodeUTF8(<const char*>text.at, <Py_ssize_t>text.n, "surrogatepass")


cdef int write_ids(tuple tokens, uint32_t* ids) except -1:
    cdef Py_ssize_t i
    for i, token in enumerate(tokens):
        ids[i] = token
    return 0


cdef int raise_pending() except -1:
    """Raise the exception that C code has set."""
    return -1


cdef int check(ChatStatus status, const Problem* problem) except -1:
    """Raise what a status says."""
    if status == CHAT_OK:
        return 0
    if status == CHAT_STOPPED:
        raise_pending()
    if status == CHAT_NO_MEMORY:
        raise MemoryError
    text = problem.text.decode()
    if status == CHAT_DAMAGED:
        raise VocabularyError(text)
    if status == CHAT_FULL:
        raise ContextFullError(text)
    raise UsageError(text)


cdef int check_memory(bint is_done) except -1:
    if not is_done:
        raise MemoryError
    return 0


cdef Encoding encoding_with(Tokenizer tokenizer):
    cdef Encoding ids
    ids.tokenizer, ids.check = &tokenizer.c, signal_raised
    ids.special = ids.opens = ids.continues = False
    ids.ids, ids.n, ids.capacity = NULL, 0, 0
    return ids


# --- words and lines -----------------------------------------------------------------------------------------------


cdef str changed(text, ChatFormat format, bint is_words):
    """Return the text as `format` keeps it; without one, its words, or the text in one line."""
    cdef bytes content = encoded(text)
    cdef Buffer result = Buffer(NULL, 0, 0)
    cdef bint is_done
    try:
        if format is not None:
            is_done = chat_clean(&format.c, &result, text_in(content))
        elif is_words:
            is_done = c_words_of(&result, text_in(content))
        else:
            is_done = text_clean(&result, text_in(content))
        check_memory(is_done)
        text = decoded(buffer_text(&result))
    finally:
        buffer_close(&result)
    return text


def words_of(text, /):
    """Return the text as it is compared: letters and digits, case-folded, separated by single spaces."""
    return changed(text, None, True)


def clean(text, /):
    """Return the text in one line: stripped, and every run of white space a single space."""
    return changed(text, None, False)


# --- formats -------------------------------------------------------------------------------------------------------


def check_templates(template, opening_template, /):
    """Raise UsageError if the templates of turns and of an opening can't be used."""
    cdef Text[3] parts
    cdef Problem problem
    cdef bytes content = encoded(template), opening_content = encoded(opening_template)
    cdef bint is_valid = template_parts(text_in(content), "{user}", "{bot}", "template", parts, &problem)
    if is_valid:
        is_valid = template_parts(text_in(opening_content), "{opening}", NULL, "opening_template", parts, &problem)
    check(CHAT_OK if is_valid else CHAT_REFUSED, &problem)


cdef int settings_in(dict values, ChatSettings* settings, list contents) except -1:
    """Add the contents of settings, to which `settings` then points; None is absent."""
    cdef Text[6] texts
    cdef bytes content
    for i, key in enumerate(("format", "user_name", "bot_name", "opening", "template", "opening_template")):
        texts[i] = Text(NULL, 0)
        value = values.get(key)
        if value is not None:
            content = encoded(value)
            contents.append(content)
            texts[i] = text_in(content)
    settings.format, settings.user_name, settings.bot_name, settings.opening = texts[0], texts[1], texts[2], texts[3]
    settings.template, settings.opening_template = texts[4], texts[5]
    return 0


@cython.final
cdef class ChatFormat:
    """How turns become tokens. Text of users never becomes a special token.

    Attributes:
        name, user_name, bot_name, opening: as in the metadata's `chat`. stop: strings that end an answer.
        opening_tokens: ids before the first turn. closing_tokens: ids after an answer.
        exempt: ids that a repetition penalty must leave alone, because they hold turns and sentences together.
        turns_kept: how many of the last turns the model reads, None for as many as fit.
        is_talk: answers are utterances: stripped, never blank, and not given twice.
        is_scene: the opening is the scene with example turns for models that were not trained to chat.
    """

    cdef CChatFormat c
    cdef Tokenizer tokenizer
    cdef readonly str name, user_name, bot_name, opening
    cdef readonly tuple stop
    cdef readonly list opening_tokens, closing_tokens
    cdef readonly frozenset exempt
    cdef readonly object turns_kept
    cdef readonly bint is_talk, is_scene

    def __cinit__(self, Tokenizer tokenizer not None, Py_ssize_t n_ctx, dict own not None, dict options not None, /):
        """
        Args:
            own: the settings of a model file, texts by the names in `CHAT_KEYS`.
            options: what overrides them: format, user_name, bot_name and opening, None for those of the file.

        Raises:
            UsageError: a setting can't be used, or the vocabulary lacks what the format needs.
            VocabularyError: the vocabulary is damaged.
        """
        cdef ChatSettings c_own, c_options
        cdef list contents = [], stop = []  # no comprehensions: those of Cython 3.3 damage memory if it runs out
        cdef Problem problem
        cdef int i
        self.tokenizer = tokenizer
        settings_in(own, &c_own, contents)
        settings_in(options, &c_options, contents)
        check(chat_format_open(&self.c, &tokenizer.c, <size_t>n_ctx, &c_own, &c_options, &problem), &problem)
        self.name = CHAT_FORMATS[self.c.kind].decode()
        self.user_name, self.bot_name = decoded(self.c.user_name), decoded(self.c.bot_name)
        self.opening = decoded(self.c.opening)
        for i in range(self.c.n_stops):
            stop.append(decoded(Text(self.c.stops[i].text, self.c.stops[i].n)))
        self.stop = tuple(stop)
        self.opening_tokens = tokenizer.list_of(self.c.opening_tokens.ids, self.c.opening_tokens.n)
        self.closing_tokens = tokenizer.list_of(self.c.closing_tokens.ids, self.c.closing_tokens.n)
        self.exempt = frozenset(tokenizer.list_of(self.c.exempt.ids, self.c.exempt.n))
        self.turns_kept = self.c.turns_kept or None
        self.is_talk, self.is_scene = self.c.is_talk, self.c.is_scene

    def __dealloc__(self):
        chat_format_close(&self.c)

    def check_opening(self, Py_ssize_t n_ctx, /):
        """Raise UsageError if the opening takes more than half of the context."""
        cdef Problem problem
        check(CHAT_OK if chat_opening_fits(&self.c, <size_t>n_ctx, &problem) else CHAT_REFUSED, &problem)

    def clean(self, text, /):
        """Return what is kept of a user's message: in most formats one line, so that it can't end its turn."""
        return changed(text, self, False)

    def prompt(self, text, /):
        """Return the ids of a user's clean message and of what asks for the answer."""
        return self.ids_of(text, True)

    def answer(self, text, /):
        """Return the ids of an answer, as a model would have given it."""
        return self.ids_of(text, False)

    cdef list ids_of(self, text, bint is_message):
        cdef bytes content = encoded(text)
        cdef Text c_text = text_in(content)
        cdef Encoding ids = encoding_with(self.tokenizer)
        cdef ChatStatus status
        cdef list result
        try:
            with nogil:
                status = chat_prompt(&self.c, &ids, c_text) if is_message else chat_answer(&self.c, &ids, c_text)
            check(status, &ids.problem)
            result = self.tokenizer.list_of(ids.ids, ids.n)
        finally:
            free(ids.ids)
        return result


# --- conversations -------------------------------------------------------------------------------------------------


cdef struct Turns:
    CTurn* turns  # (n)
    uint32_t* tokens  # of all turns
    size_t n


cdef list open_turns(turns, Turns* c):
    """Return the contents of the turns' texts, to which `c` then points; it is to be closed in any case."""
    cdef bytes user, answer
    cdef CTurn* turn
    cdef uint32_t* at
    cdef size_t n_tokens = 0
    cdef list contents = [], copies = []
    for one in turns:  # what a tuple holds stays, whatever the ids do while they are read
        tokens = tuple(one.tokens)
        n_tokens += <size_t>len(tokens)
        copies.append((one.user, one.answer, tokens))
    c.n = <size_t>len(copies)
    c.turns = <CTurn*>calloc(c.n + 1, sizeof(CTurn))
    c.tokens = <uint32_t*>malloc((n_tokens + 1) * sizeof(uint32_t))
    check_memory(c.turns != NULL and c.tokens != NULL)
    turn, at = c.turns, c.tokens
    for user_text, answer_text, tokens in copies:
        user, answer = encoded(user_text), encoded(answer_text)
        contents.append(user)
        contents.append(answer)
        turn.user, turn.answer = text_in(user), text_in(answer)
        write_ids(tokens, at)
        turn.tokens, turn.n_tokens = at, <size_t>len(tokens)
        at += turn.n_tokens
        turn += 1
    return contents


cdef void close_turns(Turns* c) noexcept:
    free(c.turns)
    free(c.tokens)


def prompt_of(ChatFormat format not None, turns, message, Py_ssize_t n_ctx, Py_ssize_t max_tokens, /):
    """Return the ids of the whole prompt, from the start of the context, and how many of the first turns have no room.

    Args:
        turns: those that were not dropped before. message: a clean one. max_tokens: of the answer.

    Raises:
        ContextFullError: there is no room for the message.
    """
    cdef bytes content = encoded(message)
    cdef Text text = text_in(content)
    cdef Turns c = Turns(NULL, NULL, 0)
    cdef Encoding ids = encoding_with(format.tokenizer)
    cdef size_t n_dropped
    cdef ChatStatus status
    try:
        contents = open_turns(turns, &c)
        with nogil:
            status = conversation_prompt(&format.c, c.turns, c.n, text, <size_t>n_ctx, <size_t>max_tokens, &ids,
                                         &n_dropped)
        contents.clear()
        check(status, &ids.problem)
        tokens = format.tokenizer.list_of(ids.ids, ids.n)
    finally:
        close_turns(&c)
        free(ids.ids)
    return tokens, n_dropped


def earlier_answers(ChatFormat format not None, turns, replaced, message, /):
    """Return the answers that must not be given again, a set of what `words_of` returns; none if this is no talk.

    Args:
        turns: all before this one. replaced: the text of the answer that the next one replaces, or None.
    """
    cdef bytes content = encoded(message), replaced_content
    cdef Text replaced_text = Text(NULL, 0)
    cdef Buffer earlier = Buffer(NULL, 0, 0)
    cdef Turns c = Turns(NULL, NULL, 0)
    if replaced is not None:
        replaced_content = encoded(replaced)
        replaced_text = text_in(replaced_content)
    try:
        contents = open_turns(turns[max(0, len(turns) - ANSWERS_REMEMBERED):], &c)
        check_memory(conversation_earlier(&format.c, c.turns, c.n, replaced_text, text_in(content), &earlier))
        contents.clear()
        lines = decoded(buffer_text(&earlier))
    finally:
        close_turns(&c)
        buffer_close(&earlier)
    return set(lines.split("\n")[:-1])


def kept_answer(Tokenizer tokenizer not None, sampled, stop, bint is_interrupted, bint is_stripped, /):
    """Return what remains of a sampled answer, its ids and its text.

    Args:
        sampled: the ids of the text. stop: the strings that end it.
        is_interrupted: leave out the part of a character at the end. is_stripped: as it is in a talk.
    """
    cdef StopText[MAX_STOPS] stops
    cdef bytes content
    cdef Text one
    cdef Encoding ids = encoding_with(tokenizer)
    cdef Buffer text = Buffer(NULL, 0, 0)
    cdef uint32_t* tokens
    cdef tuple sampled_ids = tuple(sampled)
    cdef size_t n = <size_t>len(sampled_ids)
    cdef ChatStatus status
    cdef list contents = []
    if not n:  # perhaps because of a stop string that can't be used
        return [], ""
    for string in stop:
        check_memory(len(contents) < MAX_STOPS)
        content = encoded(string)
        one = text_in(content)
        stops[len(contents)] = StopText(one.at, one.n)
        contents.append(content)
    tokens = <uint32_t*>malloc(n * sizeof(uint32_t))
    check_memory(tokens != NULL)
    try:
        write_ids(sampled_ids, tokens)
        status = conversation_answer_tokens(tokens, n, stops, <int>len(contents), is_interrupted, &ids)
        if status == CHAT_OK:
            status = conversation_answer_text(&tokenizer.c, ids.ids, ids.n, is_stripped, &text, &ids.problem)
        check(status, &ids.problem)
        kept, kept_text = tokenizer.list_of(ids.ids, ids.n), decoded(buffer_text(&text))
    finally:
        free(tokens)
        free(ids.ids)
        buffer_close(&text)
    return kept, kept_text


# --- replies -------------------------------------------------------------------------------------------------------


@cython.final
cdef class ReplyText:
    """The text of an answer while it is sampled, until it is one that was not given before.

    Attributes:
        finish_reason: None while it goes on, then that of its last draft, or "blank".
        temperature: of the current draft.
    """

    cdef CReply c

    def __cinit__(self, bint is_talk, double temperature, earlier, /):
        """
        Args:
            is_talk: whether blank and repeated answers are sampled again. temperature: of the first draft.
            earlier: the answers that must not be given again, each as `words_of` returns it.
        """
        cdef bytes content
        lines = ""
        for words in earlier:
            lines += f"{words}\n"
        content = encoded(lines)
        check_memory(reply_open(&self.c, is_talk, temperature, text_in(content)))

    def __dealloc__(self):
        reply_close(&self.c)

    @property
    def finish_reason(self):
        return REASONS[<int>self.c.reason]

    @property
    def temperature(self):
        return reply_temperature(&self.c)

    @cython.critical_section
    def accept(self, piece, finish_reason, /):
        """Add a piece of the draft's text.

        Args:
            finish_reason: of the draft after this piece, None while it goes on.

        Returns:
            The part of the answer that is now final, which may be empty; None if the draft is discarded, and another
            one is to be sampled.
        """
        cdef bytes content = encoded(piece)
        cdef Text text
        cdef size_t n_held = self.c.held.n - self.c.n_returned
        cdef bint is_begun = self.c.is_begun
        status = reply_accept(&self.c, text_in(content), <FinishReason><int>REASONS.index(finish_reason), &text)
        check_memory(status != REPLY_NO_MEMORY)
        if status == REPLY_AGAIN:
            return None
        try:
            return decoded(text)
        except MemoryError:
            self.c.held.n, self.c.n_returned, self.c.is_begun, self.c.reason = n_held, 0, is_begun, FINISH_NONE
            raise
