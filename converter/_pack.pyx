# cython: language_level=3, freethreading_compatible=True
"""Matrices of f32 into the model file's tiles."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc


cdef extern from "pack.h" nogil:
    void pack_gather(float* values, const float* w, ptrdiff_t row_stride, ptrdiff_t in_stride, int64_t row,
                     int64_t n_out, int64_t n_in)
    bint pack_is_finite(const float* values, int64_t n_in)
    void pack_f32(uint8_t* tile, const float* values, int64_t n_in)
    void pack_f16(uint8_t* tile, const float* values, int64_t n_in, double* error)
    void pack_int8(uint8_t* tile, const float* values, int64_t n_in, int64_t group, double* error)
    void pack_int4(uint8_t* tile, const float* values, int64_t n_in, int64_t group, double* error)


def pack_rows(w, out, bint inputs_first, str weight_type, int64_t group_size, int64_t first_row, int64_t n_rows):
    """Packs rows of a matrix into tiles of 16 rows (docs/format.md).

    Args:
        w: IN, f32, C-contiguous, (n_in, n_out) where `inputs_first` (as TensorFlow stores it), else (n_out, n_in).
        out: OUT, a writable buffer of bytes for these rows' tiles; must be zeroed.
        weight_type: "f32", "f16", "int8" or "int4". group_size: inputs that share a scale (int8 and int4).
        first_row: a multiple of 16. n_rows: how many; the last tile is filled up with zeros.

    Returns:
        (largest, sum, is_finite): of the absolute errors of the packed values, 0 for f32; False where a value of w is
        an infinity or no number, and then nothing that was packed is of use. A value that is too large for the weight
        type makes the sum an infinity or no number.
    """
    cdef Py_buffer source, target
    cdef int64_t n_in, n_out, row, tile, tiles, tile_bytes
    cdef double error[2]
    cdef float* values
    cdef int kind
    cdef bint is_finite = True
    cdef ptrdiff_t row_stride, in_stride
    try:
        kind = ("f32", "f16", "int8", "int4").index(weight_type)
    except ValueError:
        raise ValueError(f"weight type {weight_type!r}: expected f32, f16, int8 or int4") from None
    PyObject_GetBuffer(w, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    try:
        if source.ndim != 2 or source.itemsize != 4 or bytes(source.format) not in (b"f", b"<f"):
            raise ValueError("expected a matrix of f32")
        n_in, n_out = source.shape[0], source.shape[1]
        if not inputs_first:
            n_in, n_out = n_out, n_in
        if inputs_first:
            row_stride, in_stride = 1, n_out
        else:
            row_stride, in_stride = n_in, 1
        if first_row < 0 or first_row % 16 or n_rows < 0 or first_row + n_rows > n_out:
            raise ValueError(f"rows {first_row} to {first_row + n_rows} of {n_out}")
        if kind >= 2:
            if group_size < 8 or group_size % 8:
                raise ValueError(f"group size {group_size}: expected a multiple of 8")
            tile_bytes = ((n_in + group_size - 1) // group_size * 32 + 63) // 64 * 64
            tile_bytes += (n_in + group_size - 1) // group_size * group_size * (16 if kind == 2 else 8)
        else:
            tile_bytes = (n_in * (64 if kind == 0 else 32) + 63) // 64 * 64
        tiles = (n_rows + 15) // 16
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        try:
            if target.len != tiles * tile_bytes:
                raise ValueError(f"out has {target.len} bytes, expected {tiles * tile_bytes}")
            values = <float*>malloc(<size_t>(n_in * 16 * sizeof(float)))
            if values == NULL:
                raise MemoryError()
            error[0] = error[1] = 0
            with nogil:
                for tile in range(tiles):
                    row = first_row + tile * 16
                    pack_gather(values, <const float*>source.buf, row_stride, in_stride, row, n_out, n_in)
                    is_finite = pack_is_finite(values, n_in)
                    if not is_finite:
                        break
                    if kind == 0:
                        pack_f32(<uint8_t*>target.buf + tile * tile_bytes, values, n_in)
                    elif kind == 1:
                        pack_f16(<uint8_t*>target.buf + tile * tile_bytes, values, n_in, error)
                    elif kind == 2:
                        pack_int8(<uint8_t*>target.buf + tile * tile_bytes, values, n_in, group_size, error)
                    else:
                        pack_int4(<uint8_t*>target.buf + tile * tile_bytes, values, n_in, group_size, error)
            free(values)
            return error[0], error[1], is_finite
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
