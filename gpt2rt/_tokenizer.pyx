# cython: language_level=3, freethreading_compatible=True
"""Byte-level BPE over the mapped vocabulary of a model file (docs/format.md, "Vocabulary").

A text is split into pieces (`core/pieces.h`), and the bytes of each piece are merged by rank (`core/merges.h`).
Nothing is built at startup, and everything read from the tables is checked: a damaged vocabulary gives wrong tokens or
a VocabularyError.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

import codecs

from gpt2rt.errors import UsageError, VocabularyError

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "merges.h":
    int MERGES_RAISED
    uint32_t MERGES_NONE
    Py_ssize_t MERGES_SHORT
    ctypedef struct Merge:
        pass
    ctypedef struct Tables:
        const uint8_t* token_offsets
        const uint8_t* byte_tokens
        const uint8_t* special_tokens
        const uint8_t* merge_slots
        const uint8_t* token_bytes
        uint32_t n_vocab, n_special, n_slots, n_token_bytes
    Py_ssize_t merge_short(const Tables* t, uint32_t* tokens, Py_ssize_t n)
    Py_ssize_t merge_long(const Tables* t, uint32_t* tokens, Py_ssize_t n)

cdef extern from "pieces.h":
    const uint8_t* piece_end(const uint8_t* p, const uint8_t* end)


cdef struct Ids:
    uint32_t* at  # (capacity), of which n are in use
    Py_ssize_t n, capacity


cdef enum:
    PATIENCE = 0x4000  # pieces between checks for Ctrl-C, a power of two

cdef tuple TABLES = ("token_offsets", "byte_tokens", "special_tokens", "controls", "merge_slots", "token_bytes")
cdef enum:
    N_TABLES = 6
    FIXED_CONTROLS = 3  # flags, bos and pad; the tokens that end a text follow
    PREFIX_SPACE = 1
    BOS = 2

cdef str END_OF_TEXT = "<|endoftext|>"
cdef str REMEDY = "(gpt2rt verify lists the damage; copy or convert the file again)"


cdef inline uint32_t load(const uint8_t* table, Py_ssize_t i) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, table + 4 * i, 4)
    return value


cdef int reserve(Ids* ids, Py_ssize_t more) except -1:
    """Make room for more ids."""
    cdef Py_ssize_t capacity = ids.n + more
    if capacity <= ids.capacity:
        return 0
    capacity += capacity // 2 + 64
    cdef void* at = realloc(ids.at, capacity * sizeof(uint32_t))
    if at == NULL:
        raise MemoryError
    ids.at, ids.capacity = <uint32_t*>at, capacity
    return 0


cdef int raise_pending() except -1:
    """Raise the exception that C code has set."""
    return -1


cdef int encode_span(const Tables* t, const uint8_t* p, const uint8_t* end, Ids* ids) except -1:
    """Add the tokens of the UTF-8 text from p to end, which contains no special token."""
    cdef const uint8_t* after
    cdef uint32_t* tokens
    cdef Py_ssize_t n, i
    cdef size_t pieces = 0
    while p < end:
        after = piece_end(p, end)
        n = after - p
        reserve(ids, n)
        tokens = ids.at + ids.n
        for i in range(n):
            tokens[i] = load(t.byte_tokens, p[i])
            if tokens[i] >= t.n_vocab:
                raise VocabularyError(
                    f"vocabulary: byte {p[i]} has token {tokens[i]}, expected at most {t.n_vocab - 1} {REMEDY}"
                )
        if n > 1:
            if n >= <Py_ssize_t>MERGES_NONE:
                raise UsageError(f"text: got {n} bytes without a break, expected less than {MERGES_NONE}")
            n = merge_short(t, tokens, n) if n <= MERGES_SHORT else merge_long(t, tokens, n)
            if n == MERGES_RAISED:
                raise_pending()
            if n < 0:
                raise VocabularyError(f"vocabulary: the table of merges is full or has a bad token {REMEDY}")
        ids.n += n
        p = after
        pieces += 1
        if pieces % PATIENCE == 0:
            PyErr_CheckSignals()
    return 0


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

    cdef Tables tables
    cdef Py_buffer views[N_TABLES]  # the buffers that `tables` points into
    cdef readonly tuple eos_token_ids  # ids that end a text; may be empty
    cdef readonly object bos_token_id, pad_token_id  # None: the vocabulary has none
    cdef readonly bint add_bos_token, add_prefix_space

    def __cinit__(self, tables, n_vocab):
        """
        Args:
            tables: {name: buffer of bytes} as from `ModelFile.vocabulary`; referenced, not copied.
            n_vocab: number of tokens.

        Raises:
            VocabularyError: a table has the wrong length.
        """
        cdef Tables* t = &self.tables
        cdef int i
        for i, name in enumerate(TABLES):
            PyObject_GetBuffer(tables[name], &self.views[i], PyBUF_SIMPLE)
        offsets, byte_tokens, specials, controls, slots, content = [view.len for view in self.views]
        n_slots, none = slots // sizeof(Merge), MERGES_NONE
        for name, length, fits, expected in (
            ("token_offsets", offsets, 0 < n_vocab < none and offsets == 4 * (n_vocab + 1), f"4 * ({n_vocab} + 1)"),
            ("byte_tokens", byte_tokens, byte_tokens == 4 * 256, "4 * 256"),
            ("special_tokens", specials, not specials % 4 and specials < none, "a multiple of 4"),
            (
                "controls",
                controls,
                not controls % 4 and (not controls or controls >= 4 * FIXED_CONTROLS),
                f"0, or a multiple of 4 from {4 * FIXED_CONTROLS} on",
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
        t.merge_slots = <const uint8_t*>self.views[4].buf
        t.token_bytes = <const uint8_t*>self.views[5].buf
        t.n_vocab, t.n_special, t.n_slots, t.n_token_bytes = n_vocab, specials // 4, n_slots, content
        self.read_controls(controls // 4)

    def __dealloc__(self):
        cdef int i
        for i in range(N_TABLES):
            PyBuffer_Release(&self.views[i])

    @property
    def n_vocab(self):
        """Number of tokens."""
        return self.tables.n_vocab

    cdef int read_controls(self, Py_ssize_t n) except -1:
        """Set what the table of controls says. Without one, `<|endoftext|>` begins and ends a text if there is one."""
        cdef const uint8_t* controls = <const uint8_t*>self.views[3].buf
        cdef uint32_t flags, bos, pad
        cdef Py_ssize_t i
        if n < FIXED_CONTROLS:
            end = self.end_of_text()
            self.eos_token_ids, self.bos_token_id = () if end is None else (end,), end
            return 0
        flags, bos, pad = load(controls, 0), load(controls, 1), load(controls, 2)
        eos = [load(controls, i) for i in range(FIXED_CONTROLS, n)]
        for name, token in (("bos", bos), ("pad", pad), *[("eos", token) for token in eos]):
            if token >= self.tables.n_vocab and (token != MERGES_NONE or name == "eos"):
                raise VocabularyError(
                    f"vocabulary: the {name} token is {token}, expected at most {self.tables.n_vocab - 1} {REMEDY}"
                )
        if flags & ~(PREFIX_SPACE | BOS) or (flags & BOS and bos == MERGES_NONE):
            raise VocabularyError(f"vocabulary: unknown flags {flags:#x}, or a bos token that is missing {REMEDY}")
        self.bos_token_id = None if bos == MERGES_NONE else bos
        self.pad_token_id = None if pad == MERGES_NONE else pad
        self.eos_token_ids = tuple(eos)
        self.add_prefix_space, self.add_bos_token = flags & PREFIX_SPACE, flags & BOS
        return 0

    cdef object end_of_text(self):
        """Return the id of `<|endoftext|>`, or None if the vocabulary doesn't have it or is damaged there."""
        cdef Tables* t = &self.tables
        cdef uint32_t token, start, end
        if not t.n_special:
            return None
        token = load(t.special_tokens, 0)
        if token >= t.n_vocab:
            return None
        start, end = load(t.token_offsets, token), load(t.token_offsets, token + 1)
        if not start <= end <= t.n_token_bytes:
            return None
        return token if (<const char*>t.token_bytes + start)[: end - start] == END_OF_TEXT.encode() else None

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
        cdef bytes content
        if not isinstance(text, str):
            raise UsageError(f"text: got {text!r:.80}, expected text")
        try:
            content = text.encode()
        except UnicodeEncodeError:  # a pair of surrogates is a character; a lone one becomes U+FFFD
            content = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        cdef Py_ssize_t position = 0, i, at, after
        cdef Ids ids = Ids(NULL, 0, 0)
        try:
            if add_special_tokens and self.add_bos_token and not continues:
                reserve(&ids, 1)
                ids.at[ids.n] = self.bos_token_id
                ids.n += 1
            if special:
                for at, after, token in self.special_places(content):
                    self.encode_part(content[position:at], continues and not position, &ids)
                    reserve(&ids, 1)
                    ids.at[ids.n] = token
                    ids.n += 1
                    position = after
            self.encode_part(content[position:] if position else content, continues and not position, &ids)
            return [ids.at[i] for i in range(ids.n)]
        finally:
            free(ids.at)

    cdef int encode_part(self, bytes content, bint continues, Ids* ids) except -1:
        """Add the tokens of a part of a text between special tokens; it may get a space, as with tokenizers."""
        if self.add_prefix_space and not continues and content and not content.startswith(b" "):
            content = b" " + content
        cdef const uint8_t* start = <const uint8_t*><const char*>content
        return encode_span(&self.tables, start, start + len(content), ids)

    cdef list special_places(self, bytes content):
        """Find special tokens in a text: (start, end, id), in order, not overlapping."""
        from heapq import heapify, heappop, heapreplace

        cdef Py_ssize_t end = 0
        cdef uint32_t i
        ahead, places = [], []  # ahead: the next place of each special token
        for i in range(self.tables.n_special):
            token = load(self.tables.special_tokens, i)
            text = self.bytes_of(token)
            at = content.find(text) if text else -1
            if at >= 0:
                ahead.append((at, -len(text), i, token, text))
        heapify(ahead)
        while ahead:
            at, _, i, token, text = ahead[0]
            if at >= end:
                end = at + len(text)
                places.append((at, end, token))
            at = content.find(text, end)
            if at >= 0:
                heapreplace(ahead, (at, -len(text), i, token, text))
            else:
                heappop(ahead)
        return places

    def token_bytes(self, token):
        """Return the bytes of a token, given its id; they may be parts of characters.

        Raises:
            UsageError: `token` is not an integer.
            VocabularyError: it is out of range.
        """
        return self.bytes_of(token)

    cdef bytes bytes_of(self, token):
        cdef Tables* t = &self.tables
        cdef Py_ssize_t i
        cdef uint32_t start, end
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
        if not 0 <= i < t.n_vocab:
            raise VocabularyError(f"token {token}: out of range, expected 0 to {t.n_vocab - 1}")
        start, end = load(t.token_offsets, i), load(t.token_offsets, i + 1)
        if not start <= end <= t.n_token_bytes:
            raise VocabularyError(
                f"token {i}: is at bytes {start} to {end}, expected ascending and at most {t.n_token_bytes} {REMEDY}"
            )
        return (<const char*>t.token_bytes + start)[: end - start]

    def decode_bytes(self, ids):
        """Return the bytes of tokens, joined.

        Raises:
            UsageError: an item of `ids` is not an integer.
            VocabularyError: an id is out of range.
        """
        try:
            items = None if isinstance(ids, (str, bytes, bytearray)) else iter(ids)
        except TypeError:
            items = None
        if items is None:
            raise UsageError(f"tokens: got {ids!r:.80}, expected ids")
        return b"".join([self.bytes_of(token) for token in items])

    def decode(self, ids):
        """Decode tokens to text; bytes that are not UTF-8 become U+FFFD. Raises as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def problems(self, most=100):
        """Check the contents of all tables.

        Returns:
            Messages about what is not as docs/format.md requires, at most `most` of them; empty if all is well.
        """
        from gpt2rt.modelfile.vocabulary import problems

        cdef int i
        return problems({TABLES[i]: self.views[i].obj for i in range(N_TABLES)}, self.n_vocab, most)


@cython.final
cdef class StreamDecoder:
    """Decodes tokens one by one; the bytes of an incomplete character wait for the next token.

    The pieces together are the result of `Tokenizer.decode` for all ids.
    """

    cdef Tokenizer tokenizer
    cdef object decoder

    def __cinit__(self, Tokenizer tokenizer not None):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token):
        """Add a token and return the text that is now complete, which may be empty. Raises as `token_bytes`."""
        return self.decoder.decode(self.tokenizer.bytes_of(token))

    def finish(self):
        """Return U+FFFD if a character is incomplete, else an empty text, and reset the decoder."""
        text = self.decoder.decode(b"", True)
        self.decoder.reset()
        return text
