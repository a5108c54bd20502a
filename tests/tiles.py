"""Unpack matrices from the model file's tiles, in numpy, implemented from docs/format.md only."""

import numpy as np

TILE = 16


def unpack(content, n_out, n_in, weight_type, group_size):
    """Return the values and the scales of a packed matrix.

    Returns:
        (values, scales): f32 (n_out, n_in), and f32 of the same shape, None for float types. The padding of the tiles
        is checked against the format.
    """
    n_tiles = -(-n_out // TILE)
    tiles = np.frombuffer(content, np.uint8).reshape(n_tiles, -1)
    if weight_type in ("f32", "f16"):
        dtype = np.dtype("<f4" if weight_type == "f32" else "<f2")
        length = n_in * TILE * dtype.itemsize
        assert not tiles[:, length:].any()
        assert tiles.shape[1] == -(-length // 64) * 64
        values = np.ascontiguousarray(tiles[:, :length]).view(dtype).reshape(n_tiles, n_in, TILE)
        rows = values.transpose(0, 2, 1).reshape(n_tiles * TILE, n_in).astype(np.float32)
        assert not rows[n_out:].any()
        return rows[:n_out], None
    assert weight_type in ("int8", "int4")
    n_groups = -(-n_in // group_size)
    n_scales = n_groups * TILE * 2
    begin = -(-n_scales // 64) * 64
    assert not tiles[:, n_scales:begin].any()
    scales = np.ascontiguousarray(tiles[:, :n_scales]).view("<f2").reshape(n_tiles, n_groups, TILE).astype(np.float32)
    if weight_type == "int8":
        quants = tiles[:, begin:].reshape(n_tiles, n_groups * group_size // 4, TILE, 4).astype(np.int32) - 128
    else:
        nibbles = tiles[:, begin:].reshape(n_tiles, n_groups * group_size // 8, 1, TILE, 4)
        quants = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).astype(np.int32) - 8
        quants = quants.reshape(n_tiles, n_groups * group_size // 4, TILE, 4)
    quants = quants.transpose(0, 2, 1, 3).reshape(n_tiles * TILE, n_groups * group_size)
    assert not quants[:, n_in:].any()
    assert not quants[n_out:].any()
    scales = np.repeat(scales.transpose(0, 2, 1).reshape(n_tiles * TILE, n_groups), group_size, axis=1)
    return (quants * scales)[:n_out, :n_in].astype(np.float32), scales[:n_out, :n_in]
