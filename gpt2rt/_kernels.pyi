from collections.abc import Iterable, Sequence
from typing import final

from _typeshed import ReadableBuffer

def crc32c(content: ReadableBuffer, value: int = 0) -> int: ...
def available_isas() -> list[str]: ...
def evaluate(function: str, x: bytes, y: bytes, z: bytes, isa: str) -> bytes: ...

@final
class Weights:
    def __init__(
        self,
        section: ReadableBuffer,
        hyperparameters: Sequence[int],
        weight_type: int,
        group_size: int,
        offsets: Iterable[int],
        isa: str | None = None,
    ) -> None: ...
    @property
    def isa(self) -> str: ...

@final
class ThreadTeam:
    n_threads: int
    def __init__(self, n_threads: int) -> None: ...

class RunState:
    weights: Weights
    team: ThreadTeam
    length: int
    def __init__(self, weights: Weights, team: ThreadTeam) -> None: ...
    n_logits: int
    def accept(self, tokens: Sequence[int], n_logits: int = 1) -> None: ...
    def rewind(self, length: int) -> None: ...
    def fork(self) -> RunState: ...
    def logits(self, back: int = 0) -> bytes: ...

def accept_together(states: list[RunState], tokens: list[Sequence[int]], n_logits: int = 1) -> None: ...
