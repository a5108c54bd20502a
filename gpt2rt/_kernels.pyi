from collections.abc import Iterable, Sequence
from typing import final

from _typeshed import ReadableBuffer

def crc32c(content: ReadableBuffer, value: int = 0) -> int: ...
def available_isas() -> list[str]: ...
def evaluate(function: str, x: bytes, y: bytes, z: bytes, isa: str) -> bytes: ...
def read_bytes(content: bytes, isa: str) -> int: ...

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
