# cython: language_level=3, freethreading_compatible=True
"""Text in tokens, out of tokens, and up to where it stops: Python's side of `core/tokenizer.h`, `core/utf8.h`,
`core/stops.h` and `core/stream.h`, which do the work. It has about 500 lines because half of them are docstrings and
checks.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from gpt2rt.errors import UsageError, VocabularyError

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeUTF8(const char* content, Py_ssize_t size, const char* errors)


cdef enum:
    SHORT = 256  # bytes of text for which no memory is allocated
    LONG = 0x10000  # bytes of text; encoding more lets other threads run

cdef tuple TABLES = ("token_offsets", "byte_tokens", "special_tokens", "controls", "merge_slots", "token_bytes")


cdef int raise_pending() except -1:
    """Raise the exception that C code has set."""
    return -1


cdef int raise_damage(const Problem* problem) except -1:
    raise VocabularyError(problem.text.decode())


# --- the tokenizer -------------------------------------------------------------------------------------------------


@cython.final
cdef class Tokenizer:
    """Converts text to tokens and back, with the tables of a vocabulary. Immutable; threads can share it.

    Attributes:
        eos_token_ids: the ids of the tokens that end a text, a tuple, which may be empty.
        bos_token_id: the id of the token that begins a text, None if there is none. pad_token_id: for padding, or None.
        add_bos_token: whether a text begins with that token. add_prefix_space: whether a text that doesn't begin with a
            space gets one.
    """

    def __cinit__(self, tables, n_vocab):
        """
        Args:
            tables: {name: buffer of bytes} as from `ModelFile.vocabulary`; referenced, not copied.
            n_vocab: number of tokens.

        Raises:
            VocabularyError: a table has the wrong length.
        """
        cdef Tables t
        cdef Problem problem
        cdef int i
        for i, name in enumerate(TABLES):
            PyObject_GetBuffer(tables[name], &self.views[i], PyBUF_SIMPLE)
        offsets, byte_tokens, specials = self.views[0].len, self.views[1].len, self.views[2].len
        controls, slots, content = self.views[3].len, self.views[4].len, self.views[5].len
        n_slots, none = slots // sizeof(Merge), MERGES_NONE
        for name, length, fits, expected in (
            ("token_offsets", offsets, 0 < n_vocab < none and offsets == 4 * (n_vocab + 1), f"4 * ({n_vocab} + 1)"),
            ("byte_tokens", byte_tokens, byte_tokens == 4 * 256, "4 * 256"),
            ("special_tokens", specials, not specials % 4 and specials < none, "a multiple of 4"),
            (
                "controls",
                controls,
                not controls % 4 and (not controls or controls >= 4 * CONTROL_EOS),
                f"0, or a multiple of 4 from {4 * CONTROL_EOS} on",
            ),
            (
                "merge_slots",
                slots,
                slots == n_slots * sizeof(Merge) and 0 < n_slots < 1 << 31 and not n_slots & (n_slots - 1),
                "16 times a power of two",
            ),
            ("token_bytes", content, content < none, f"less than {none}"),
        ):
            if not fits:
                raise VocabularyError(f"vocabulary: table {name!r} has {length} bytes, expected {expected}")
        t.token_offsets = <const uint8_t*>self.views[0].buf
        t.byte_tokens = <const uint8_t*>self.views[1].buf
        t.special_tokens = <const uint8_t*>self.views[2].buf
        t.controls = <const uint8_t*>self.views[3].buf
        t.merge_slots = <const uint8_t*>self.views[4].buf
        t.token_bytes = <const uint8_t*>self.views[5].buf
        t.n_vocab, t.n_special, t.n_controls = n_vocab, specials // 4, controls // 4
        t.n_slots, t.n_token_bytes = n_slots, content
        if not tokenizer_open(&self.c, &t, &problem):
            raise_damage(&problem)
        self.bos_token_id = None if self.c.bos == MERGES_NONE else self.c.bos
        self.pad_token_id = None if self.c.pad == MERGES_NONE else self.c.pad
        eos = []
        for i in range(<int>self.c.n_eos):
            eos.append(table_value(self.c.eos, i))
        self.eos_token_ids = tuple(eos)
        self.add_bos_token, self.add_prefix_space = self.c.add_bos, self.c.add_prefix_space

    def __dealloc__(self):
        cdef int i
        for i in range(N_TABLES):
            PyBuffer_Release(&self.views[i])

    @property
    def n_vocab(self):
        """Number of tokens."""
        return self.c.tables.n_vocab

    def encode(self, text, *, bint special=False, bint add_special_tokens=True, bint continues=False):
        """Encode a text.

        Args:
            text: any text; a lone surrogate is read as U+FFFD, as in tiktoken.
            special: encode the text of special tokens, such as `<|endoftext|>`, as those tokens: the leftmost first,
                and the longest if several start at one place. Otherwise it is encoded like any other text.
            add_special_tokens: begin with `bos_token_id` if `add_bos_token` is set, as few vocabularies have it.
            continues: the text goes on in the middle of another: it gets neither that token nor a space before it.

        Returns:
            A list of ids.

        Raises:
            UsageError: `text` is not a string.
            VocabularyError: the vocabulary is damaged.
        """
        cdef bytes copy
        cdef const char* content
        cdef Py_ssize_t size
        cdef EncodeStatus status
        cdef Encoding encoding
        if not isinstance(text, str):
            raise UsageError(f"text: got {text!r:.80}, expected text")
        if text.isascii():  # Python keeps the UTF-8 of another text as long as the text
            content = PyUnicode_AsUTF8AndSize(text, &size)
        else:
            copy = encoded(text)
            content, size = copy, len(copy)
        encoding.tokenizer, encoding.check = &self.c, signal_raised
        encoding.special, encoding.opens, encoding.continues = special, add_special_tokens, continues
        encoding.ids, encoding.n, encoding.capacity = NULL, 0, 0
        try:
            if size < LONG:
                status = encode_text(&encoding, <const uint8_t*>content, <size_t>size)
            else:
                with nogil:
                    status = encode_text(&encoding, <const uint8_t*>content, <size_t>size)
            if status == ENCODE_STOPPED:
                raise_pending()
            if status == ENCODE_NO_MEMORY:
                raise MemoryError
            if status == ENCODE_DAMAGED:
                raise_damage(&encoding.problem)
            if status == ENCODE_TOO_LONG:
                raise UsageError(encoding.problem.text.decode())
            return self.list_of(encoding.ids, encoding.n)
        finally:
            free(encoding.ids)

    cdef list list_of(self, const uint32_t* ids, size_t n):
        """Return ids as a list. In a long one, equal ids are the same object, which takes a fifth of the memory."""
        cdef size_t i
        cdef list result = [], known  # comprehensions of Cython 3.3 damage memory if it runs out
        if n < self.c.tables.n_vocab // 8:
            for i in range(n):
                result.append(ids[i])
            return result
        known = [None] * self.c.tables.n_vocab
        for i in range(n):
            token = known[ids[i]]
            if token is None:
                token = known[ids[i]] = ids[i]
            result.append(token)
        return result

    cdef int find(self, token, TokenBytes* found) except -1:
        """Find the bytes of a token. Raises as `token_bytes`."""
        cdef Py_ssize_t i
        cdef Problem problem
        try:
            number = None if isinstance(token, bool) else PyNumber_Index(token)
        except TypeError:
            number = None
        if number is None:
            raise UsageError(f"token: got {token!r:.80}, expected an id")
        try:
            i = number
        except OverflowError:
            i = -1
        if not 0 <= i < self.c.tables.n_vocab:
            raise VocabularyError(f"token {token}: out of range, expected 0 to {self.c.tables.n_vocab - 1}")
        if not c_token_bytes(&self.c.tables, <uint32_t>i, found, &problem):
            raise_damage(&problem)
        return 0

    cdef int join(self, ids, Buffer* joined) except -1:
        """Add the bytes of tokens. Raises as `decode_bytes`."""
        cdef TokenBytes found
        try:
            items = None if isinstance(ids, (str, bytes, bytearray)) else iter(ids)
        except TypeError:
            items = None
        if items is None:
            raise UsageError(f"tokens: got {ids!r:.80}, expected ids")
        if not buffer_reserve(joined, 0):  # so that there is an address, also of nothing
            raise MemoryError
        for token in items:
            self.find(token, &found)
            if not buffer_reserve(joined, found.n):
                raise MemoryError
            memcpy(joined.at + joined.n, found.at, found.n)
            joined.n += found.n
        return 0

    def token_bytes(self, token):
        """Return the bytes of a token, given its id; they may be parts of characters.

        Raises:
            UsageError: `token` is not an integer.
            VocabularyError: it is out of range.
        """
        cdef TokenBytes found
        self.find(token, &found)
        return PyBytes_FromStringAndSize(<const char*>found.at, <Py_ssize_t>found.n)

    def decode_bytes(self, ids):
        """Return the bytes of tokens, joined.

        Raises:
            UsageError: an item of `ids` is not an integer.
            VocabularyError: an id is out of range.
        """
        cdef Buffer joined = Buffer(NULL, 0, 0)
        try:
            self.join(ids, &joined)
            return PyBytes_FromStringAndSize(<const char*>joined.at, <Py_ssize_t>joined.n)
        finally:
            buffer_close(&joined)

    def decode(self, ids):
        """Decode tokens to text; bytes that are not UTF-8 become U+FFFD. Raises as `decode_bytes`."""
        cdef Buffer joined = Buffer(NULL, 0, 0)
        try:
            self.join(ids, &joined)
            return PyUnicode_DecodeUTF8(<const char*>joined.at, <Py_ssize_t>joined.n, "replace")
        finally:
            buffer_close(&joined)

    def problems(self, most=100):
        """Check the contents of all tables.

        Returns:
            Messages about what is not as docs/format.md requires, at most `most` of them; empty if all is well.
        """
        from gpt2rt.modelfile.vocabulary import problems

        cdef int i
        return problems({TABLES[i]: self.views[i].obj for i in range(N_TABLES)}, self.n_vocab, most)


cdef bytes encoded(text):
    """Return a text in UTF-8; a pair of surrogates is a character, and a lone one becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


# --- streams -------------------------------------------------------------------------------------------------------


@cython.final
cdef class StreamDecoder:
    """Decodes tokens one by one; the bytes of an incomplete character wait for the next token.

    The pieces together are the result of `Tokenizer.decode` for all ids.
    """

    cdef Tokenizer tokenizer
    cdef Utf8Decoder decoder

    def __cinit__(self, Tokenizer tokenizer not None):
        self.tokenizer = tokenizer

    @cython.critical_section
    def feed(self, token):
        """Add a token and return the text that is now complete, which may be empty. Raises as `token_bytes`."""
        cdef TokenBytes found
        cdef uint8_t[SHORT] short
        cdef uint8_t* text = short
        self.tokenizer.find(token, &found)  # may run Python code, which may feed this decoder
        cdef Utf8Decoder after = self.decoder
        if UTF8_MOST(found.n) > SHORT:
            text = <uint8_t*>malloc(UTF8_MOST(found.n))
            if text == NULL:
                raise MemoryError
        try:
            size = utf8_feed(&after, found.at, found.n, text)
            piece = PyUnicode_DecodeUTF8(<const char*>text, <Py_ssize_t>size, NULL)
        finally:
            if text != short:
                free(text)
        self.decoder = after
        return piece

    @cython.critical_section
    def finish(self):
        """Return U+FFFD if a character is incomplete, else an empty text, and reset the decoder."""
        cdef uint8_t[6] text
        cdef Utf8Decoder after = self.decoder
        piece = PyUnicode_DecodeUTF8(<const char*>text, <Py_ssize_t>utf8_finish(&after, text), NULL)
        self.decoder = after
        return piece


def stop_strings(stop):
    """Return `stop`, one string or several, as a tuple.

    Raises:
        UsageError: an item is empty, too long or not a string, or there are too many.
    """
    try:
        stops = (stop,) if isinstance(stop, (str, bytes)) else tuple(stop)
    except TypeError:
        raise UsageError(f"stop: got {stop!r:.80}, expected a string or a list of strings") from None
    if len(stops) > MAX_STOPS:
        raise UsageError(f"stop: got {len(stops)} strings, expected at most {MAX_STOPS}")
    for one in stops:
        if not isinstance(one, str) or not 1 <= str.__len__(one) <= MAX_STOP_LENGTH:
            raise UsageError(f"stop: got {one!r:.80}, expected text of 1 to {MAX_STOP_LENGTH} characters")
    # Exact strings: those of a subclass have the length that its methods return.
    return tuple(map(str.__str__, stops))


cdef list stop_texts(tuple strings, StopText* texts):
    """Return the content of `stop_strings`, to which `texts` then points."""
    cdef bytes one
    cdef int i
    cdef list content = []
    for i, string in enumerate(strings):
        one = string.encode("utf-8", "surrogatepass")  # a lone surrogate is a character here, as it is for str.find
        content.append(one)
        texts[i].text, texts[i].n = <const uint8_t*><const char*>one, <size_t>len(one)
    return content


@cython.final
cdef class StopStrings:
    """Passes text through until a stop string is complete, and holds back text that may become one.

    Attributes:
        found: the stop string that ended the text, or None.
    """

    cdef Stops stops
    cdef tuple strings  # of `stops`

    def __cinit__(self, stop=()):
        """Raises UsageError as `stop_strings` does."""
        cdef StopText[MAX_STOPS] texts
        self.strings = stop_strings(stop)
        content = stop_texts(self.strings, texts)
        if not stops_open(&self.stops, texts, <int>len(content)):
            raise MemoryError

    def __dealloc__(self):
        stops_close(&self.stops)

    @property
    def found(self):
        return None if self.stops.found < 0 else self.strings[self.stops.found]

    @cython.critical_section
    def feed(self, piece):
        """Add a piece of text; return the text that can't become part of a stop string."""
        cdef Stops after
        cdef const char* content
        cdef bytes copy
        cdef Py_ssize_t size, passed
        cdef uint8_t[SHORT] short
        cdef uint8_t* text = short
        if not isinstance(piece, str):
            raise TypeError(f"piece: got {piece!r:.80}, expected text")
        if not self.stops.n:
            return piece
        try:
            content = PyUnicode_AsUTF8AndSize(piece, &size)
        except UnicodeEncodeError:
            copy = piece.encode("utf-8", "surrogatepass")
            content, size = copy, len(copy)
        after = self.stops
        if after.held + <size_t>size > SHORT:
            text = <uint8_t*>malloc(after.held + <size_t>size)
            if text == NULL:
                raise MemoryError
        try:
            passed = <Py_ssize_t>stops_feed(&after, <const uint8_t*>content, <size_t>size, text)
            if passed != size or self.stops.held:
                piece = PyUnicode_DecodeUTF8(<const char*>text, passed, "surrogatepass")
        finally:
            if text != short:
                free(text)
        self.stops = after
        return piece

    @cython.critical_section
    def finish(self):
        """Return the text that was held back."""
        cdef uint8_t[MAX_STOP_BYTES] text
        cdef Stops after = self.stops
        held = PyUnicode_DecodeUTF8(<const char*>text, <Py_ssize_t>stops_finish(&after, text), "surrogatepass")
        self.stops = after
        return held


cdef tuple REASONS = (None, "stop", "length")  # as FINISH_REASONS


@cython.final
cdef class TextStream:
    """The text of sampled tokens: whole characters, up to a stop string, a token that ends a text, or a limit.

    Attributes:
        finish_reason: None while it goes on, then "stop" (a stop string, or a token of `eos_token_ids`) or "length"
            (max_tokens, or the sequence is full).
        n_tokens: how many tokens belong to the text.
    """

    cdef Tokenizer tokenizer
    cdef CTextStream c

    def __cinit__(self, Tokenizer tokenizer not None, stop=(), max_tokens=None, /):
        """
        Args:
            stop: strings that end the text; they are not part of it. max_tokens: None for as many as there is room for.

        Raises:
            UsageError: as for `stop_strings`.
        """
        cdef StopText[MAX_STOPS] texts
        cdef uint64_t most = 0 if max_tokens is None else min(max_tokens, 1 << 62)
        content = stop_texts(stop_strings(stop), texts)
        self.tokenizer = tokenizer
        if not stream_open(&self.c, &tokenizer.c, texts, <int>len(content), most):
            raise MemoryError

    def __dealloc__(self):
        stream_close(&self.c)

    @property
    def finish_reason(self):
        return REASONS[<int>self.c.reason]

    @property
    def n_tokens(self):
        return self.c.n_tokens

    @cython.critical_section
    def accept(self, list tokens not None, bint is_full, /):
        """Add the tokens that a step sampled.

        Args:
            is_full: whether the sequence has no position left after them.

        Returns:
            The text that is now final, which may be empty, and how many of the tokens were used: once there is a
            finish reason, the others are not part of the text.

        Raises:
            VocabularyError: the vocabulary is damaged.
        """
        cdef uint32_t[SHORT] few
        cdef uint32_t* ids = few
        cdef list copy = list(tokens)  # its items may run code that changes the list
        cdef Py_ssize_t i, n = len(copy)
        cdef size_t n_used
        cdef Buffer text = Buffer(NULL, 0, 0)
        cdef Problem problem
        cdef CTextStream before = self.c
        if n > SHORT:
            ids = <uint32_t*>malloc(<size_t>n * sizeof(uint32_t))
            if ids == NULL:
                raise MemoryError
        try:
            for i in range(n):
                ids[i] = copy[i]
            status = stream_accept(&self.c, ids, <size_t>n, is_full, &text, &n_used, &problem)
            if status == STREAM_NO_MEMORY:
                raise MemoryError
            if status == STREAM_DAMAGED:
                raise_damage(&problem)
            return PyUnicode_DecodeUTF8(<const char*>text.at, <Py_ssize_t>text.n, NULL), n_used
        except MemoryError:
            before.piece = self.c.piece  # scratch
            self.c = before
            raise
        finally:
            buffer_close(&text)
            if ids != few:
                free(ids)
