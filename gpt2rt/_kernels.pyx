# cython: language_level=3, freethreading_compatible=True
"""The compiled kernels: which instruction sets this machine can run, and the weights of a network for them.

The kernels are C, in `core/kernels/`; `_engine.pyx` runs the forward pass.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free

import os

from gpt2rt._modelfile cimport Shape, weights_length
from gpt2rt._modelfile import WEIGHT_TYPES
from gpt2rt.errors import UsageError

cdef extern from "kernels/kernels.h" nogil:
    const int FUNCTION_EXP, FUNCTION_GELU, FUNCTION_FMA
    enum: MAX_KERNELS
    int kernels_here(const Kernels** found)
    const Kernels* kernels_on_request(const char* name)

cdef extern from "matrix.h" nogil:
    ctypedef struct TileLayout:
        int64_t stride
    ctypedef struct Matrix:
        const uint8_t* data
        TileLayout layout
    TileLayout tile_layout(int type, int64_t n_in, int64_t group)
    void matrix_row(float* x, const Matrix* m, int64_t row, int64_t n)

KV_TYPES = ("f16", "f32", "int8")

cdef const Kernels* KERNELS[MAX_KERNELS]
cdef int N_KERNELS = kernels_here(KERNELS)


def available_isas(str wanted=None):
    """Return the names of the instruction sets that this build contains and this processor supports, best first.

    Args:
        wanted: the last name, if it is available but runs only when asked for.
    """
    cdef list names = []
    for i in range(N_KERNELS):
        names.append(KERNELS[i].name.decode())
    if wanted is not None and kernels_on_request(wanted.encode(errors="replace")) != NULL:
        names.append(wanted)
    return names


cdef const Kernels* kernels_named(str isa) except NULL:
    for i in range(N_KERNELS):
        if KERNELS[i].name.decode() == isa:
            return KERNELS[i]
    cdef const Kernels* on_request = kernels_on_request(isa.encode(errors="replace"))
    if on_request != NULL:
        return on_request
    raise UsageError(
        f"instruction set {isa!r}: not available, expected one of {', '.join(available_isas())} (see GPT2RT_ISA)"
    )


def evaluate(str function, bytes x, bytes y, bytes z, str isa):
    """Evaluate an elementary function of the kernels, for comparison with another implementation.

    Args:
        function: "exp" or "gelu" of x, or "fma": x * y + z.
        x, y, z: bytes of f32 (n,), n a multiple of 16.
        isa: one of `available_isas(isa)`.

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
        isa: one of `available_isas(isa)`.
    """
    return kernels_named(isa).read_bytes(content, len(content))


def matrix_rows(tensor, Shape shape not None, rows):
    """Return rows of a matrix as they are in the file, dequantized: bytes of f32 (len(rows), n_in).

    Args:
        tensor: (bytes of the matrix in the weights section, n_out, n_in).
        shape: of the file.
        rows: indices, from 0 to n_out - 1.
    """
    content, n_out, n_in = tensor
    cdef int64_t n = n_in, i = 0
    cdef Py_buffer view
    cdef Matrix matrix
    cdef list wanted = []
    for row in rows:
        if 0 <= row < n_out:
            wanted.append(row)
    found = bytearray(len(wanted) * n * 4)
    cdef float* out = <float*><char*>found
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    matrix.data = <const uint8_t*>view.buf
    matrix.layout = tile_layout(<int>shape.shape.type, n, shape.shape.group)
    try:
        if view.len < -(-n_out // 16) * matrix.layout.stride:
            raise ValueError(f"tensor: got {view.len} bytes, expected a matrix ({n_out}, {n_in})")
        for row in wanted:
            matrix_row(out + i * n, &matrix, row, n)
            i += 1
    finally:
        PyBuffer_Release(&view)
    return bytes(found)


@cython.final
cdef class Weights:
    """A file's weights for the kernels: pointers into the mapped section. Immutable, can be shared by threads."""

    def __cinit__(self, section, Shape shape not None, isa=None, kv_type=None):
        """
        Args:
            section: buffer of the weights section; a reference is kept. shape: of the network.
            isa: one of `available_isas(isa)`; None for the environment variable GPT2RT_ISA, or, without it, the best
                one.
            kv_type: one of `KV_TYPES`, of the sequences' KV caches; None for f32 if the weights are, and f16 otherwise.

        Raises:
            UsageError: the instruction set is not available.
        """
        PyObject_GetBuffer(section, &self.view, PyBUF_SIMPLE)
        cdef int64_t length = weights_length(&shape.shape)
        if self.view.len != length or <uintptr_t>self.view.buf % 4:
            raise ValueError(f"section: got {self.view.len} bytes, expected {length}, aligned to 4")
        isa = isa or os.environ.get("GPT2RT_ISA")
        self.network.kernels = kernels_named(isa) if isa else KERNELS[0]
        if not network_open(&self.network, &shape.shape, <const uint8_t*>self.view.buf):
            raise MemoryError()
        if kv_type is not None:
            self.network.kv_type = WEIGHT_TYPES.index(kv_type)

    def __dealloc__(self):
        free(self.network.layers)
        PyBuffer_Release(&self.view)

    @property
    def isa(self):
        """The instruction set that the kernels use."""
        return self.network.kernels.name.decode()

    @property
    def kv_type(self):
        """The type of the sequences' KV caches, one of `KV_TYPES`."""
        return WEIGHT_TYPES[self.network.kv_type]
