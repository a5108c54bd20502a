# cython: language_level=3, freethreading_compatible=True
"""The kernels and what is built of them: checksums, the forward pass."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "kernels/crc32c.h" nogil:
    void crc32c_init()
    uint32_t crc32c_update "crc32c"(uint32_t sum, const uint8_t* p, size_t n)


crc32c_init()


def crc32c(content, uint32_t value=0):
    """The CRC32C of a contiguous buffer of bytes, continuing from `value` (of the bytes before it)."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = crc32c_update(value, <const uint8_t*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return result
