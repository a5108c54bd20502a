from typing import final

from _typeshed import ReadableBuffer

from gpt2rt._modelfile import Shape

KV_TYPES: tuple[str, ...]

def available_isas(wanted: str | None = None) -> list[str]: ...
def evaluate(function: str, x: bytes, y: bytes, z: bytes, isa: str) -> bytes: ...
def read_bytes(content: bytes, isa: str) -> int: ...

@final
class Weights:
    def __init__(
        self, section: ReadableBuffer, shape: Shape, isa: str | None = None, kv_type: str | None = None
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def kv_type(self) -> str: ...
