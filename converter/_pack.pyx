# cython: language_level=3, freethreading_compatible=True
"""Pack f32 matrices into the model file's tiles."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc


cdef extern from "pack.h" nogil:
    ctypedef struct TileLayout:
        int64_t stride

    ctypedef struct PackSource:
        const float* w
        ptrdiff_t row_stride, in_stride
        int64_t n_out, n_in

    TileLayout tile_layout(int type, int64_t n_in, int64_t group)
    void pack_gather(float* values, const PackSource* source, int64_t row)
    bint pack_is_finite(const float* values, int64_t n_in)
    void pack_tile(const TileLayout* layout, uint8_t* tile, const float* values, int64_t n_in, double* error)


def pack_rows(w, out, bint inputs_first, str weight_type, int64_t group_size, int64_t first_row, int64_t n_rows):
    """Pack rows of a matrix into tiles of 16 rows (docs/format.md).

    Args:
        w: IN, f32, C-contiguous, (n_in, n_out) if `inputs_first` (as TensorFlow stores it), else (n_out, n_in).
        out: OUT, a writable buffer of bytes for these rows' tiles; must be zeroed.
        weight_type: "f32", "f16", "int8" or "int4". group_size: inputs that share a scale (int8 and int4).
        first_row: a multiple of 16. n_rows: number of rows; the last tile is padded with zeros.

    Returns:
        (largest, sum, is_finite): the largest absolute error of a packed value and the sum of all absolute errors, 0
        for f32; is_finite is False if w contains infinity or NaN, and then the content of `out` is undefined. A value
        too large for the weight type makes the sum infinite or NaN.
    """
    cdef Py_buffer view, target
    cdef PackSource source
    cdef TileLayout layout
    cdef int64_t tile, tiles
    cdef double error[2]
    cdef float* values
    cdef int kind
    cdef bint is_finite = True
    try:
        kind = <int>("f32", "f16", "int8", "int4").index(weight_type)  # as TYPE_F32 ... of tile.h
    except ValueError:
        raise ValueError(f"weight type {weight_type!r}: expected f32, f16, int8 or int4") from None
    if kind >= 2 and (group_size < 8 or group_size % 8):
        raise ValueError(f"group size {group_size}: expected a multiple of 8")
    PyObject_GetBuffer(w, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    try:
        if view.ndim != 2 or view.itemsize != 4 or bytes(view.format) not in (b"f", b"<f"):
            raise ValueError("expected a matrix of f32")
        source.w = <const float*>view.buf
        if inputs_first:
            source.n_in, source.n_out = view.shape[0], view.shape[1]
            source.row_stride, source.in_stride = 1, view.shape[1]
        else:
            source.n_out, source.n_in = view.shape[0], view.shape[1]
            source.row_stride, source.in_stride = view.shape[1], 1
        if first_row < 0 or first_row % 16 or n_rows < 0 or first_row + n_rows > source.n_out:
            raise ValueError(f"rows {first_row} to {first_row + n_rows}: expected 16 * n to at most {source.n_out}")
        layout = tile_layout(kind, source.n_in, group_size)
        tiles = (n_rows + 15) // 16
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        try:
            if target.len != tiles * layout.stride:
                raise ValueError(f"out has {target.len} bytes, expected {tiles * layout.stride}")
            values = <float*>malloc(<size_t>source.n_in * 16 * sizeof(float))
            if values == NULL:
                raise MemoryError()
            error[0] = error[1] = 0
            with nogil:
                for tile in range(tiles):
                    pack_gather(values, &source, first_row + tile * 16)
                    is_finite = pack_is_finite(values, source.n_in)
                    if not is_finite:
                        break
                    pack_tile(&layout, <uint8_t*>target.buf + tile * layout.stride, values, source.n_in, error)
            free(values)
            return error[0], error[1], is_finite
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&view)
