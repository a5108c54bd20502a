"""Pack f32 matrices, or matrices quantized before, into the tiles of the model file, one chunk of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpt2rt.converter._pack import pack_rows
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import TILE, matrix_length

CHUNK = 2 << 20  # bytes of packed tiles
NOT_FINITE = "{} contains infinity or NaN (did its training diverge?)"


class Quantization:
    """The quantization errors of all matrices packed so far.

    Attributes:
        max_error, mean_error: the largest and the mean absolute error of an element; 0 for f32.
    """

    def __init__(self) -> None:
        self.max_error = 0.0
        self._sum, self._n_values = 0.0, 0

    @property
    def mean_error(self) -> float:
        return self._sum / self._n_values if self._n_values else 0.0

    def add(self, largest: float, total: float, n_values: int) -> None:
        self.max_error = max(self.max_error, largest)
        self._sum += total
        self._n_values += n_values


def rows_of_chunk(n_in: int, weight_type: str, group_size: int) -> int:
    """Return how many rows of a matrix make a chunk, a multiple of 16; the last chunk may have fewer."""
    return max(1, CHUNK // matrix_length(TILE, n_in, weight_type, group_size)) * TILE


def packed_chunks(
    label: str,
    w: np.ndarray,
    inputs_first: bool,
    weight_type: str,
    group_size: int,
    quantization: Quantization,
) -> Iterator[tuple[memoryview, int, int]]:
    """Pack a matrix.

    Args:
        label: the matrix' name in messages.
        w: f32, C-contiguous, (n_in, n_out) if `inputs_first`, else (n_out, n_in).
        weight_type: "f32", "f16", "int8" or "int4".
        group_size: number of inputs that share a scale, 0 for float types.
        quantization: a `Quantization` to which the errors are added.

    Yields:
        (chunk, first_row, n_rows): the bytes of these rows' tiles, valid until the next chunk is requested.

    Raises:
        CheckpointError: an element is infinite or NaN, or too large for the type.
    """
    n_in, n_out = w.shape if inputs_first else w.shape[::-1]
    tile_length = matrix_length(TILE, n_in, weight_type, group_size)
    rows = rows_of_chunk(n_in, weight_type, group_size)
    buffer = memoryview(bytearray(min(rows, -(-n_out // TILE) * TILE) // TILE * tile_length))  # its padding stays zero
    for first_row in range(0, n_out, rows):
        n_rows = min(rows, n_out - first_row)
        chunk = buffer[: -(-n_rows // TILE) * tile_length]
        largest, total, is_finite = pack_rows(w, chunk, inputs_first, weight_type, group_size, first_row, n_rows)
        if not is_finite:
            raise CheckpointError(NOT_FINITE.format(label))
        if not math.isfinite(total):
            raise CheckpointError(f"{label} contains a value that is too large for {weight_type} (convert to f32)")
        quantization.add(largest, total, n_rows * n_in)
        yield chunk, first_row, n_rows


def packed_codes(
    w: np.ndarray, codes: np.ndarray, scales: np.ndarray, weight_type: str, group_size: int, quantization: Quantization
) -> Iterator[tuple[memoryview, int, int]]:
    """Pack a matrix that is already quantized.

    Args:
        w: f32 (n_out, n_in), the original. codes: int8 (n_out, n_in). scales: f16 (n_out, groups).
        weight_type: "int8" or "int4". group_size, quantization: as for `packed_chunks`.

    Yields:
        (chunk, first_row, n_rows): the bytes of these rows' tiles.
    """
    n_out, n_in = codes.shape
    n_groups = scales.shape[1]
    width = n_groups * group_size
    tile_length = matrix_length(TILE, n_in, weight_type, group_size)
    rows = rows_of_chunk(n_in, weight_type, group_size)
    for first_row in range(0, n_out, rows):
        n_rows = min(rows, n_out - first_row)
        n_tiles = -(-n_rows // TILE)
        part = slice(first_row, first_row + n_rows)
        code, scale = np.zeros((n_tiles * TILE, width), np.int8), np.zeros((n_tiles * TILE, n_groups), "<f2")
        code[:n_rows, :n_in], scale[:n_rows] = codes[part], scales[part]
        tiles = np.zeros((n_tiles, tile_length), np.uint8)
        tiles[:, : 2 * n_groups * TILE] = (
            scale.reshape(n_tiles, TILE, n_groups).swapaxes(1, 2).reshape(n_tiles, -1).view(np.uint8)
        )
        if weight_type == "int8":
            fours = (code.view(np.uint8) ^ 128).reshape(n_tiles, TILE, width // 4, 4)
        else:
            eights = (code + 8).view(np.uint8).reshape(n_tiles, TILE, width // 8, 2, 4)
            fours = eights[:, :, :, 0] | eights[:, :, :, 1] << 4
        values = fours.swapaxes(1, 2).reshape(n_tiles, -1)
        tiles[:, tile_length - values.shape[1] :] = values
        exact = code[:n_rows] * np.repeat(scale[:n_rows].astype(np.float32), group_size, axis=1)
        off = np.abs(exact[:, :n_in] - w[part])
        quantization.add(float(off.max()), float(off.sum(dtype=np.float64)), n_rows * n_in)
        yield memoryview(tiles.tobytes()), first_row, n_rows
