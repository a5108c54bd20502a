"""Error-compensated rounding (GPTQ): weights that are not yet rounded absorb the rounding errors of their row.

How much each absorbs follows from the second moments of the inputs on a text, measured layer by layer with all earlier
layers already quantized.

Source: Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".
"""

from __future__ import annotations

import numpy as np

from gpt2rt.converter import layers
from gpt2rt.converter.quantize import NOT_FINITE
from gpt2rt.converter.source import Source
from gpt2rt.errors import CheckpointError, UsageError

MAX_TOKENS = 16_384  # of the text
MIN_TOKENS = 64
DAMPING = 0.01  # added to the diagonal of the moments, as a fraction of its mean
EMBEDDING = 1.0  # the damping of the token embedding, which is looked up as well as multiplied by
COLUMNS = 128  # columns rounded before all later ones are corrected; a multiple of most group sizes
LARGEST = {"int8": 127, "int4": 7}
STEPS = np.arange(6.0, 10.01, 0.25)  # candidate int4 scales: steps from zero to a group's largest value


class Calibration:
    """Quantizes the matrices of a source, in file order.

    Attributes:
        origin: for the file's metadata: the number of tokens used, and the SHA-256 of the text.
    """

    def __init__(self, source: Source, tokens: list[int], weight_type: str, group_size: int, text_sha256: str):
        """
        Args:
            source: the source of the matrices.
            tokens: ids, of which the first MAX_TOKENS are used. text_sha256: the SHA-256 of their text.
            weight_type: "int8" or "int4". group_size: number of inputs that share a scale.

        Raises:
            UsageError: there are fewer than MIN_TOKENS tokens.
        """
        if len(tokens) < MIN_TOKENS:
            raise UsageError(f"calibration: the text has {len(tokens)} tokens, expected at least {MIN_TOKENS}")
        self._source, self._type, self._group = source, weight_type, group_size
        tokens = tokens[:MAX_TOKENS]
        self.origin = {"calibration_tokens": len(tokens), "calibration_sha256": text_sha256}
        n_window = min(source.hyperparameters.n_ctx, layers.WINDOW)
        self._states = layers.embedded(source, [tokens[i : i + n_window] for i in range(0, len(tokens), n_window)])
        self._rounded: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def rounded(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Quantize a matrix. Matrices must be requested in the order of `modelfile.tensor_table`.

        Args:
            name: the matrix' name in that table.

        Returns:
            (codes, scales): int8 (n_out, n_in) and f16 (n_out, groups).
        """
        if name not in self._rounded:
            if name.startswith("h"):
                layer = int(name[1:].partition("/")[0])
                self._states = layers.run_layer(self._source, layer, self._states, self._choose)
            else:
                inputs = layers.final(self._source, self._states)
                w = self._source.tensor(name)
                damping = EMBEDDING if name == "wte" and self._source.is_tied else DAMPING
                self._rounded[name] = self._round(name, w, inputs, damping)
        return self._rounded.pop(name)

    def _choose(self, name: str, w: np.ndarray, inputs: list[np.ndarray]) -> np.ndarray:
        codes, scales = self._rounded[name] = self._round(name, np.ascontiguousarray(w.T), inputs, DAMPING)
        return np.ascontiguousarray(values(codes, scales, self._group).T)

    def _round(
        self, name: str, w: np.ndarray, inputs: list[np.ndarray], damping: float
    ) -> tuple[np.ndarray, np.ndarray]:
        if not np.isfinite(w).all():
            raise CheckpointError(NOT_FINITE.format(f"{self._source.path}: tensor {name!r}"))
        moments = np.zeros((w.shape[1], w.shape[1]))  # (n_in, n_in)
        for x in inputs:
            moments += x.T @ x
        try:
            return compensated(w, moments, damping, self._type, self._group)
        except np.linalg.LinAlgError:
            raise CheckpointError(
                f"{self._source.path}: tensor {name!r} can't be calibrated: its inputs are degenerate (broken weights?)"
            ) from None


def values(codes: np.ndarray, scales: np.ndarray, group: int) -> np.ndarray:
    """Dequantize codes (n_out, n_in) with scales (n_out, groups) to f32 (n_out, n_in)."""
    found: np.ndarray = codes * np.repeat(scales.astype(np.float32), group, axis=1)[:, : codes.shape[1]]
    return found


def compensated(
    w: np.ndarray, moments: np.ndarray, damping: float, weight_type: str, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize w (n_out, n_in) column by column, with the inputs' moments (n_in, n_in); return (codes, scales)."""
    n_out, n_in = w.shape
    diagonal = moments.diagonal().copy()
    diagonal[diagonal <= 0] = diagonal.mean() or 1.0  # an input that is always zero
    moments = moments + np.diag(diagonal - moments.diagonal() + damping * diagonal.mean())
    # The rows of this triangle spread a column's error over the columns after it.
    inverse = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)
    w = w.astype(np.float32)  # a copy, which accumulates the errors
    weights = diagonal.astype(np.float32)
    codes = np.empty((n_out, n_in), np.int8)
    scales = np.zeros((n_out, -(-n_in // group)), np.float16)
    block = max(COLUMNS, group)
    for begin in range(0, n_in, block):
        end = min(begin + block, n_in)
        errors = np.empty((n_out, end - begin), np.float32)
        for i in range(begin, end):
            if i % group == 0:
                scales[:, i // group] = best_scales(w[:, i : i + group], weights[i : i + group], weight_type)
            scale = scales[:, i // group].astype(np.float32)
            codes[:, i] = code = nearest(w[:, i], scale, weight_type)
            errors[:, i - begin] = error = (w[:, i] - code * scale) / inverse[i, i]
            w[:, i + 1 : end] -= np.outer(error, inverse[i, i + 1 : end])
        w[:, end:] -= errors @ inverse[begin:end, end:]
    return codes, scales


def nearest(w: np.ndarray, scale: np.ndarray, weight_type: str) -> np.ndarray:
    """Return the nearest codes, as floats, for one scale per row; 0 where the scale is 0."""
    largest = LARGEST[weight_type]
    scaled = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)
    codes: np.ndarray = np.clip(np.rint(scaled), -largest - (weight_type == "int4"), largest)
    return codes


def best_scales(w: np.ndarray, weights: np.ndarray, weight_type: str) -> np.ndarray:
    """Return an f16 scale for each row of w (n_out, group) that minimizes the weighted squared error.

    The weights (group,) are those of the inputs. An int4 scale may be negative: the largest value then maps to -8, the
    side with one more step, or is clamped in favor of the others.
    """
    sizes = np.abs(w)
    if weight_type == "int8":
        plain: np.ndarray = (sizes.max(axis=1) / LARGEST["int8"]).astype(np.float16)
        return plain
    largest = np.take_along_axis(w, sizes.argmax(axis=1)[:, None], axis=1)[:, 0]
    best, least = np.zeros(len(w), np.float16), np.full(len(w), np.inf, np.float32)
    for scale in [np.abs(largest) / LARGEST["int4"], *(-largest / steps for steps in STEPS)]:
        trial = scale.astype(np.float16)
        for _ in range(2):
            exact = trial.astype(np.float32)[:, None]
            code = nearest(w, exact, weight_type)
            cost = ((w - code * exact) ** 2 * weights).sum(axis=1)
            is_better = cost < least
            best, least = np.where(is_better, trial, best), np.where(is_better, cost, least)
            squares = (code * code * weights).sum(axis=1)
            fitted = (w * code * weights).sum(axis=1)
            trial = np.divide(fitted, squares, out=np.zeros_like(fitted), where=squares > 0).astype(np.float16)
    return best
