# cython: language_level=3
"""The shape of a network, for modules that need its tensors; `core/layout.h` documents the fields."""

from libc.stdint cimport int64_t


cdef extern from "layout.h" nogil:
    ctypedef struct ModelShape:
        int64_t n_vocab, n_ctx, n_embd, n_head, n_layer
        int64_t type
        int64_t group
        bint has_head

    int64_t weights_length(const ModelShape* s)


cdef class Shape:
    cdef ModelShape shape
