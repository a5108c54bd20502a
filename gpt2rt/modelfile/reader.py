"""The reader of model files: opens, maps and validates them.

`docs/format.md` is normative. `core/modelfile.h` makes the checks and phrases what they find.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gpt2rt._modelfile import ALIGNMENT, CheckedFile, FileBytes, Shape, Tensor, check_header
from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.modelfile.layout import Hyperparameters

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Path = str | os.PathLike[str]
    Metadata = dict[str, Any]


class ModelFile:
    """An open, validated model file: its header fields and read-only views of its sections.

    Attributes:
        path: the path passed in. size: bytes in the file.
        shape: the `Shape` that determines its tensors. hyperparameters: `Hyperparameters`.
        sections: {name: memoryview}. checksums: {name: CRC32C}.
    """

    def __init__(self, path: Path, use_mmap: bool = True, prefetch: bool = True):
        """Open and validate a file in time that does not depend on the weights.

        Args:
            use_mmap: whether to map the file instead of reading it into memory.
            prefetch: whether to start reading a mapped file that is not in memory yet, for whoever uses the weights.

        Raises:
            ModelFileError: it is not a sound model file.
            UsageError: `path` is not a path.
        """
        try:
            self.path = os.fsdecode(path)
        except TypeError:
            raise UsageError(f"path: got {path!r:.80}, expected the path of a model file") from None
        if not use_mmap:
            _check_header(self.path)  # before all of another file is read
        view = memoryview(FileBytes(self.path, use_mmap, prefetch))
        self._file = CheckedFile(view, self.path)
        self.size = len(view)
        self.shape: Shape = self._file.shape
        self.hyperparameters = Hyperparameters(*self.shape.hyperparameters)
        sections = self._file.sections()
        self.sections = {name: view[offset : offset + length] for name, offset, length, _ in sections}
        self.checksums = {name: checksum for name, _, _, checksum in sections}

    def _refuse(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}")

    @property
    def weight_type(self) -> str:
        """The type of the matrices, one of `WEIGHT_TYPES`."""
        return self.shape.weight_type

    @property
    def group_size(self) -> int:
        """Number of inputs that share a scale, 0 for float types."""
        return self.shape.group_size

    @property
    def is_tied(self) -> bool:
        """Whether `wte` is also the output head."""
        return self.shape.is_tied

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the weights section, in the order in which they are stored."""
        return self.shape.tensors()

    @property
    def metadata(self) -> Metadata:
        """The metadata, a dict. Raises ModelFileError if it is not a JSON object."""
        import json  # not needed before the first token

        try:
            metadata = json.loads(bytes(self.sections["metadata"]))
        except (ValueError, RecursionError) as error:
            self._refuse(f"section 'metadata' is not valid JSON: {error} (gpt2rt verify lists damaged sections)")
        if not isinstance(metadata, dict):
            self._refuse(f"section 'metadata' contains a {type(metadata).__name__}, expected a JSON object")
        return metadata

    def vocabulary(self) -> dict[str, memoryview]:
        """Return read-only views of the vocabulary's tables: {name: memoryview of bytes}."""
        section = self.sections["vocabulary"]
        return {name: section[offset : offset + length] for name, offset, length in self._file.tables()}

    def section_table(self) -> list[tuple[str, int, int, int]]:
        """Return (name, offset, length, stored CRC32C) of each section, in the order of the file."""
        return self._file.sections()

    def damaged_sections(self) -> Iterator[tuple[str, int, int]]:
        """Read the whole file; yield (section, stored CRC32C, actual CRC32C) for each section where they differ."""
        for name, stored in self.checksums.items():
            actual = self._file.checksum(name)
            if actual != stored:
                yield name, stored, actual

    def nonzero_padding(self) -> int | None:
        """Return the offset of the first byte between the sections that is not zero, or None."""
        return self._file.nonzero_padding()


def _check_header(path: str) -> None:
    """Check the header of a file. Raises ModelFileError; a file that can't be opened is left to `FileBytes`."""
    import contextlib  # not needed where files are mapped

    from gpt2rt.regular_file import open_regular

    with contextlib.suppress(OSError), open_regular(path) as file:
        check_header(file.read(ALIGNMENT), os.fstat(file.fileno()).st_size, path)
