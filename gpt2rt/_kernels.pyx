# cython: language_level=3, freethreading_compatible=True
"""The compiled kernels: which instruction sets this machine can run, and the weights of a network for them.

The kernels are C, in `core/kernels/`; `_engine.pyx` runs the forward pass.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

import os

from gpt2rt.errors import UsageError

cdef extern from "kernels/kernels.h" nogil:
    const int FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA
    enum: MAX_KERNELS
    int kernels_here(const Kernels** found)

cdef extern from "crc32c.h" nogil:
    void crc32c_init()
    uint32_t crc32c_update "crc32c"(uint32_t sum, const uint8_t* p, size_t n)

cdef const Kernels* KERNELS[MAX_KERNELS]
cdef int N_KERNELS = kernels_here(KERNELS)

crc32c_init()


def crc32c(content, uint32_t value=0):
    """Return the CRC32C of a contiguous buffer of bytes, continuing from `value`, the CRC32C of the bytes before."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = crc32c_update(value, <const uint8_t*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return result


def available_isas():
    """Return the names of the instruction sets that this build contains and this processor supports, best first."""
    return [KERNELS[i].name.decode() for i in range(N_KERNELS)]


cdef const Kernels* kernels_named(str isa) except NULL:
    for i in range(N_KERNELS):
        if KERNELS[i].name.decode() == isa:
            return KERNELS[i]
    raise UsageError(
        f"instruction set {isa!r}: not available, expected one of {', '.join(available_isas())} (see GPT2RT_ISA)"
    )


def evaluate(str function, bytes x, bytes y, bytes z, str isa):
    """Evaluate an elementary function of the kernels, for comparison with another implementation.

    Args:
        function: "exp" or "gelu" of x, or "fma": x * y + z.
        x, y, z: bytes of f32 (n,), n a multiple of 16.
        isa: one of `available_isas()`.

    Returns:
        Bytes of f32 (n,).
    """
    if len(x) % 64 or len(y) != len(x) or len(z) != len(x):
        raise ValueError(f"{len(x)}, {len(y)} and {len(z)} bytes: expected the same multiple of 64")
    cdef int code = {"exp": FUNCTION_EXP, "gelu": FUNCTION_GELU, "fma": FUNCTION_FMA}[function]
    result = bytearray(x)
    kernels_named(isa).evaluate(code, <float*><char*>result, <const float*><const char*>y,
                                <const float*><const char*>z, len(x) // 4)
    return bytes(result)


def read_bytes(bytes content, str isa):
    """Return the sum of the 64-bit words of `content`, modulo 2**64, as the kernels that measure memory read them.

    The last word is padded with zeros.

    Args:
        isa: one of `available_isas()`.
    """
    return kernels_named(isa).read_bytes(content, len(content))


@cython.final
cdef class Weights:
    """A file's weights for the kernels: pointers into the mapped section. Immutable, can be shared by threads."""

    def __cinit__(self, section, hyperparameters, int weight_type, int64_t group_size, offsets, isa=None):
        """
        Args:
            section: buffer of the weights section; a reference is kept.
            hyperparameters: (n_vocab, n_ctx, n_embd, n_head, n_layer). weight_type: the code in the file's header.
            offsets: byte offset of every tensor of `modelfile.tensor_table`, in that order.
            isa: one of `available_isas()`; None for the environment variable GPT2RT_ISA, or, without it, the best one.

        Raises:
            UsageError: the instruction set is not available.
        """
        PyObject_GetBuffer(section, &self.view, PyBUF_SIMPLE)
        isa = isa or os.environ.get("GPT2RT_ISA")
        self.network.kernels = kernels_named(isa) if isa else KERNELS[0]
        self.type = weight_type
        cdef Config* c = &self.network.config
        c.n_vocab, c.n_ctx, c.n_embd, c.n_head, c.n_layer = hyperparameters
        cdef list places = list(offsets)
        cdef int64_t n = len(places), i
        cdef bint has_head = n > network_tensors(c.n_layer, False)
        if n != network_tensors(c.n_layer, has_head):
            raise ValueError(f"{n} tensors, expected {network_tensors(c.n_layer, has_head)}")
        cdef int64_t* at = <int64_t*>calloc(<size_t>n, sizeof(int64_t))  # (n)
        try:
            if at == NULL:
                raise MemoryError()
            for i in range(n):
                at[i] = places[i]
            if not network_open(&self.network, Tensors(<const uint8_t*>self.view.buf, at, weight_type, group_size),
                                has_head):
                raise MemoryError()
        finally:
            free(at)

    def __dealloc__(self):
        free(self.network.layers)
        PyBuffer_Release(&self.view)

    @property
    def isa(self):
        """The instruction set that the kernels use."""
        return self.network.kernels.name.decode()
