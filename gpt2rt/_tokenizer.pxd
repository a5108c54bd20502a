# cython: language_level=3
"""Declarations of the C headers in `core/` for `_tokenizer.pyx`; the headers document the shape of every pointer."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "problem.h":
    ctypedef struct Problem:
        const char* text


cdef extern from "tokenizer.h" nogil:
    uint32_t MERGES_NONE
    ctypedef struct Merge:
        pass
    ctypedef struct Tables:
        const uint8_t* token_offsets
        const uint8_t* byte_tokens
        const uint8_t* special_tokens
        const uint8_t* controls
        const uint8_t* merge_slots
        const uint8_t* token_bytes
        uint32_t n_vocab, n_special, n_controls, n_slots, n_token_bytes

    ctypedef struct CTokenizer "Tokenizer":
        Tables tables
        uint32_t bos, pad
        const uint8_t* eos
        uint32_t n_eos
        bint add_bos, add_prefix_space

    ctypedef struct TokenBytes:
        const uint8_t* at
        size_t n

    ctypedef enum EncodeStatus:
        ENCODE_OK, ENCODE_STOPPED, ENCODE_NO_MEMORY, ENCODE_DAMAGED, ENCODE_TOO_LONG

    ctypedef struct Encoding:
        const CTokenizer* tokenizer
        bint special, opens, continues
        int (*check)() noexcept nogil
        uint32_t* ids
        size_t n, capacity
        Problem problem

    enum:
        CONTROL_EOS
    uint32_t table_value(const uint8_t* table, size_t i)
    bint c_token_bytes "token_bytes"(const Tables* t, uint32_t token, TokenBytes* found, Problem* problem)
    bint tokenizer_open(CTokenizer* t, const Tables* tables, Problem* problem)
    EncodeStatus encode_text(Encoding* e, const uint8_t* text, size_t n)


cdef extern from "text.h" nogil:
    ctypedef struct Text:
        const uint8_t* at
        size_t n
    ctypedef struct Buffer:
        uint8_t* at
        size_t n, capacity
    bint buffer_reserve(Buffer* b, size_t more)
    void buffer_close(Buffer* b)


cdef extern from "utf8.h" nogil:
    ctypedef struct Utf8Decoder:
        size_t n
    size_t UTF8_MOST(size_t n)
    size_t utf8_feed(Utf8Decoder* decoder, const uint8_t* p, size_t n, uint8_t* text)
    size_t utf8_finish(Utf8Decoder* decoder, uint8_t* text)


cdef extern from "stops.h" nogil:
    enum:
        MAX_STOPS, MAX_STOP_LENGTH, MAX_STOP_BYTES
    ctypedef struct StopText:
        const uint8_t* text
        size_t n
    ctypedef struct Stops:
        int n, found
        size_t held
    bint stops_open(Stops* s, const StopText* texts, int n)
    void stops_close(Stops* s)
    size_t stops_feed(Stops* s, const uint8_t* p, size_t n, uint8_t* text)
    size_t stops_finish(Stops* s, uint8_t* text)


cdef extern from "stream.h" nogil:
    ctypedef enum FinishReason:
        FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_INTERRUPTED, FINISH_BLANK
    const char** FINISH_REASONS
    ctypedef struct CTextStream "TextStream":
        uint64_t n_tokens
        FinishReason reason
        Stops stops
        Buffer piece
    ctypedef enum StreamStatus:
        STREAM_OK, STREAM_NO_MEMORY, STREAM_DAMAGED
    bint stream_open(CTextStream* s, const CTokenizer* tokenizer, const StopText* stops, int n_stops,
                     uint64_t max_tokens)
    void stream_close(CTextStream* s)
    StreamStatus stream_accept(CTextStream* s, const uint32_t* tokens, size_t n, bint is_full, Buffer* text,
                               size_t* n_used, Problem* problem)


cdef extern from "Python.h":
    int PyErr_CheckSignals()


cdef inline int signal_raised() noexcept nogil:
    """Return whether a signal handler has raised an exception, which is then set."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef enum:
    N_TABLES = 6


cdef class Tokenizer:
    cdef CTokenizer c
    cdef Py_buffer views[N_TABLES]  # the buffers that the tables are in
    cdef readonly tuple eos_token_ids  # ids that end a text; may be empty
    cdef readonly object bos_token_id, pad_token_id  # None: the vocabulary has none
    cdef readonly bint add_bos_token, add_prefix_space
    cdef list list_of(self, const uint32_t* ids, size_t n)
    cdef int find(self, token, TokenBytes* found) except -1
    cdef int join(self, ids, Buffer* joined) except -1
