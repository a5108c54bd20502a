"""Types of the compiled module `_pack`."""

import numpy as np

def pack_rows(
    w: np.ndarray,
    out: memoryview,
    inputs_first: bool,
    weight_type: str,
    group_size: int,
    first_row: int,
    n_rows: int,
) -> tuple[float, float, bool]: ...
