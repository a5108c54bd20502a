"""Types of the compiled module `_sampler`."""

from collections.abc import Iterable, Sequence

from _typeshed import ReadableBuffer

from gpt2rt.sampling import SamplingParams

class Sampler:
    params: SamplingParams
    seed: int
    def __init__(self, params: SamplingParams, seed: int, exempt: Iterable[int] = ()) -> None: ...
    def use(self, params: SamplingParams) -> None: ...
    def sample(self, logits: ReadableBuffer, history: Sequence[int] = ()) -> int: ...
    def candidates(self, logits: ReadableBuffer, history: Sequence[int] = ()) -> list[tuple[int, float]]: ...

def exp_of(x: float) -> float: ...
