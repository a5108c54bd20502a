# cython: language_level=3, freethreading_compatible=True
"""Model files in C: their layout (`core/layout.h`), bytes (`core/mapped.h`), validation and checksums
(`core/modelfile.h`). `gpt2rt.modelfile` gives all this names that are for people.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from os import fsencode

from gpt2rt.errors import ModelFileError

cdef extern from "Python.h":
    int PyErr_CheckSignals()

cdef extern from "crc32c.h" nogil:
    void crc32c_init()
    uint32_t crc32c_update "crc32c"(uint32_t sum, const uint8_t* p, size_t n)

cdef extern from "problem.h" nogil:
    ctypedef struct Problem:
        const char* text

cdef extern from "layout.h" nogil:
    enum:
        C_ALIGNMENT "MODEL_ALIGNMENT"
        C_TABLE_ALIGNMENT "TABLE_ALIGNMENT"
        C_TILE "TILE"
        C_MAX_N_VOCAB "MAX_N_VOCAB"
        C_MAX_N_LAYER "MAX_N_LAYER"
        C_MAX_METADATA "MAX_METADATA"
        C_MAX_TOKEN_BYTES "MAX_TOKEN_BYTES"
        C_MAX_TOKEN_LENGTH "MAX_TOKEN_LENGTH"
        C_MAX_EOS "MAX_EOS"
        N_TYPES, N_GROUP_SIZES, N_SECTIONS, N_TABLES
        SECTION_METADATA, SECTION_VOCABULARY, SECTION_WEIGHTS
    const char* MODEL_MAGIC
    const char** TYPE_NAMES
    const char** SECTION_NAMES
    const char** TABLE_NAMES
    const int* C_GROUP_SIZES "GROUP_SIZES"

    bint shape_has_valid_sizes(const ModelShape* s, Problem* problem)
    bint shape_is_valid(const ModelShape* s, Problem* problem)
    bint is_quantized(int type)
    int64_t c_matrix_length "matrix_length"(int type, int64_t group, int64_t n_out, int64_t n_in)

    ctypedef struct CTensor "Tensor":
        const char* name
        int64_t layer, n_out, n_in
        bint is_matrix
        int64_t offset, length
    ctypedef struct TensorCursor:
        const ModelShape* shape
    int64_t shape_tensors(const ModelShape* s)
    CTensor next_tensor(TensorCursor* cursor)

    ctypedef struct VocabularyCounts:
        uint32_t n_merges, n_slots, n_special, n_token_bytes, n_controls
    ctypedef struct Table:
        int64_t offset, length
    uint64_t c_slots_for "slots_for"(uint32_t n_merges)
    void vocabulary_write_counts(uint8_t* header, const VocabularyCounts* c)
    int64_t c_vocabulary_tables "vocabulary_tables"(Table* tables, int64_t n_vocab, const VocabularyCounts* c)

cdef extern from "modelfile.h" nogil:
    ctypedef struct Section:
        int64_t offset, length
        uint32_t checksum
    ctypedef struct Vocabulary:
        VocabularyCounts counts
    ctypedef struct ModelFile:
        const uint8_t* data
        int64_t size
        ModelShape shape
        Section* sections
        Vocabulary vocabulary
    bint header_is_valid(ModelFile* f, Problem* problem)
    bint modelfile_open(ModelFile* f, const void* data, size_t size, Problem* problem)
    bint section_checksum(const Section* section, int (*stop)() noexcept nogil, uint32_t* checksum)
    int64_t modelfile_nonzero_padding(const ModelFile* f)
    void header_write(uint8_t* header, const ModelShape* s, const Section* sections)

cdef extern from "mapped.h" nogil:
    ctypedef struct Mapped:
        const uint8_t* data
        size_t size
    ctypedef enum MappedResult:
        MAPPED_OK, MAPPED_REFUSED, MAPPED_NO_MEMORY
    MappedResult mapped_open(Mapped* m, const char* path, uint64_t offset, bint use_mmap, Problem* problem)
    void mapped_prefetch(const Mapped* m)
    void mapped_close(Mapped* m)

cdef extern from "cut_file.h" nogil:
    void c_end_when_a_file_is_cut "end_when_a_file_is_cut"()

crc32c_init()


cdef tuple names_of(const char** names, int n):
    cdef list found = []
    for i in range(n):
        found.append(names[i].decode())
    return tuple(found)


cdef tuple group_sizes():
    cdef list found = []
    for i in range(N_GROUP_SIZES):
        found.append(C_GROUP_SIZES[i])
    return tuple(found)


MAGIC = MODEL_MAGIC[:8]
ALIGNMENT, TABLE_ALIGNMENT, TILE = C_ALIGNMENT, C_TABLE_ALIGNMENT, C_TILE
WEIGHT_TYPES = names_of(TYPE_NAMES, N_TYPES)
GROUP_SIZES = group_sizes()
SECTIONS = names_of(SECTION_NAMES, N_SECTIONS)
MAX_N_VOCAB, MAX_N_LAYER, MAX_METADATA = C_MAX_N_VOCAB, C_MAX_N_LAYER, C_MAX_METADATA
MAX_TOKEN_BYTES, MAX_TOKEN_LENGTH, MAX_EOS = C_MAX_TOKEN_BYTES, C_MAX_TOKEN_LENGTH, C_MAX_EOS


cdef str sentence(const Problem* problem):
    return problem.text.decode("utf-8", "replace")


def crc32c(content, uint32_t value=0):
    """Return the CRC32C of a contiguous buffer of bytes, continuing from `value`, the CRC32C of the bytes before."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = crc32c_update(value, <const uint8_t*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return result


# --- the layout ----------------------------------------------------------------------------------------------------


@cython.final
cdef class Tensor:
    """A tensor of the weights section.

    Attributes:
        name: as in OpenAI's checkpoints. shape: as there, but (n_out, n_in) for all matrices.
        is_matrix: whether it is stored in tiles of the weight type. offset: in the section, bytes. length: bytes.
    """

    cdef readonly str name
    cdef readonly tuple shape
    cdef readonly bint is_matrix
    cdef readonly int64_t offset, length


cdef int code_of(weight_type) except -1:
    if weight_type not in WEIGHT_TYPES:
        raise ValueError(f"weight type {weight_type!r}: expected one of {', '.join(WEIGHT_TYPES)}")
    return WEIGHT_TYPES.index(weight_type)


cdef int set_sizes(ModelShape* shape, hyperparameters) except -1:
    """Set the five hyperparameters. A number that needs more than 64 bits is as invalid as the largest one."""
    cdef int64_t[5] sizes
    cdef int i
    for i in range(5):
        try:
            sizes[i] = hyperparameters[i]
        except OverflowError:
            sizes[i] = INT64_MAX
    shape.n_vocab, shape.n_ctx, shape.n_embd = sizes[0], sizes[1], sizes[2]
    shape.n_head, shape.n_layer = sizes[3], sizes[4]
    return 0


def problem_of(hyperparameters):
    """Return what is wrong with five hyperparameters, as the rest of a message, or None."""
    cdef ModelShape shape
    cdef Problem problem
    set_sizes(&shape, hyperparameters)
    if shape_has_valid_sizes(&shape, &problem):
        return None
    for n in hyperparameters:
        if not -INT64_MAX <= n < INT64_MAX:  # the sentence has the largest number instead, if this is the one
            return sentence(&problem).replace(str(INT64_MAX), str(n))
    return sentence(&problem)


@cython.final
cdef class Shape:
    """The numbers in a file's header that determine its tensors. Immutable."""

    def __cinit__(self, hyperparameters, str weight_type, int64_t group_size, bint is_tied=True):
        """
        Args:
            hyperparameters: (n_vocab, n_ctx, n_embd, n_head, n_layer). weight_type: one of `WEIGHT_TYPES`.
            group_size: number of inputs that share a scale, 0 for float types.
            is_tied: whether the output head is `wte`, as in GPT-2; if not, `lm_head` follows.

        Raises:
            ValueError: a number is invalid.
        """
        cdef Problem problem
        set_sizes(&self.shape, hyperparameters)
        self.shape.type, self.shape.group, self.shape.has_head = code_of(weight_type), group_size, not is_tied
        if not shape_is_valid(&self.shape, &problem):
            raise ValueError(sentence(&problem))

    @property
    def hyperparameters(self):
        """(n_vocab, n_ctx, n_embd, n_head, n_layer)."""
        return self.shape.n_vocab, self.shape.n_ctx, self.shape.n_embd, self.shape.n_head, self.shape.n_layer

    @property
    def weight_type(self):
        """The type of the matrices, one of `WEIGHT_TYPES`."""
        return WEIGHT_TYPES[self.shape.type]

    @property
    def group_size(self):
        """Number of inputs that share a scale, 0 for float types."""
        return self.shape.group

    @property
    def is_tied(self):
        """Whether the output head is `wte`."""
        return not self.shape.has_head

    def tensors(self):
        """Return all tensors of the weights section, a list of `Tensor`, in the order in which they are stored."""
        cdef TensorCursor cursor = TensorCursor(&self.shape)
        cdef CTensor one
        cdef Tensor tensor
        found = []
        while len(found) < shape_tensors(&self.shape):
            one = next_tensor(&cursor)
            tensor = Tensor.__new__(Tensor)
            tensor.name = one.name.decode() if one.layer < 0 else f"h{one.layer}/{one.name.decode()}"
            tensor.shape = (one.n_out, one.n_in)[: 2 if one.n_in else 1]
            tensor.is_matrix, tensor.offset, tensor.length = one.is_matrix, one.offset, one.length
            found.append(tensor)
        return found


def matrix_length(n_out, n_in, weight_type, group_size):
    """Return the bytes of a matrix of n_out rows (outputs) and n_in columns (inputs), in tiles of 16 rows."""
    cdef int code = code_of(weight_type)
    if not (0 <= n_out <= C_MAX_N_VOCAB and 0 <= n_in <= C_MAX_N_VOCAB):
        raise ValueError(f"matrix of ({n_out}, {n_in}): expected at most {C_MAX_N_VOCAB}")
    if is_quantized(code) and group_size not in GROUP_SIZES:
        raise ValueError(f"group size {group_size}: expected one of {', '.join(map(str, GROUP_SIZES))}")
    return c_matrix_length(code, group_size, n_out, n_in)


def slots_for(uint32_t n_merges):
    """Return the number of slots of the merge table: a power of two, so that it is at most half full."""
    return c_slots_for(n_merges)


cdef list tables_of(uint32_t n_vocab, const VocabularyCounts* counts):
    cdef Table[6] tables  # N_TABLES
    c_vocabulary_tables(tables, n_vocab, counts)
    cdef list found = []
    for i in range(N_TABLES):
        found.append((TABLE_NAMES[i].decode(), tables[i].offset, tables[i].length))
    return found


cdef VocabularyCounts counts_of(counts) except *:
    n_merges, n_slots, n_special, n_token_bytes, n_controls = counts
    return VocabularyCounts(n_merges, n_slots, n_special, n_token_bytes, n_controls)


def vocabulary_tables(uint32_t n_vocab, counts):
    """Return the tables of a vocabulary section, which follow its header.

    Args:
        counts: (n_merges, n_slots, n_special, n_token_bytes, n_controls).

    Returns:
        A list of (name, offset, length) in the section, in bytes, in order.
    """
    cdef VocabularyCounts c = counts_of(counts)
    return tables_of(n_vocab, &c)


def vocabulary_header(counts):
    """Return the 64 bytes at the beginning of a vocabulary section; see `vocabulary_tables`."""
    cdef VocabularyCounts c = counts_of(counts)
    cdef uint8_t[64] content  # TABLE_ALIGNMENT
    vocabulary_write_counts(content, &c)
    return (<const char*>content)[:C_TABLE_ALIGNMENT]


def header(Shape shape not None, sections):
    """Return the header of a file.

    Args:
        sections: (offset, length, CRC32C) of each of `SECTIONS`.
    """
    cdef uint8_t[4096] content  # MODEL_ALIGNMENT
    cdef Section[3] all_sections  # N_SECTIONS
    cdef int i
    for i in range(N_SECTIONS):
        all_sections[i].offset, all_sections[i].length, all_sections[i].checksum = sections[i]
    header_write(content, &shape.shape, all_sections)
    return (<const char*>content)[:C_ALIGNMENT]


# --- files ---------------------------------------------------------------------------------------------------------


@cython.final
cdef class FileBytes:
    """The bytes of a file, mapped or read into memory: a read-only buffer."""

    cdef Mapped mapped

    def __cinit__(self, str path, bint use_mmap=True, bint prefetch=True):
        """
        Args:
            use_mmap: whether to map the file instead of reading it into memory.
            prefetch: whether to start reading a mapped file that is not in memory yet.

        Raises:
            ModelFileError: it can't be opened.
        """
        cdef Problem problem
        cdef MappedResult result
        cdef bytes encoded = fsencode(path)
        if b"\0" in encoded:
            raise ModelFileError(f"{path}: can't be opened: embedded null byte")
        cdef const char* name = encoded
        with nogil:
            result = mapped_open(&self.mapped, name, 0, use_mmap, &problem)
        if result == MAPPED_NO_MEMORY:
            raise MemoryError()
        if result == MAPPED_REFUSED:
            raise ModelFileError(f"{path}: {sentence(&problem)}")
        if prefetch:
            mapped_prefetch(&self.mapped)

    def __dealloc__(self):
        mapped_close(&self.mapped)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void*>self.mapped.data, <Py_ssize_t>self.mapped.size, True, flags)


def end_when_a_file_is_cut():
    """From now on, end the process with a sentence and status 1 when it reads what was cut from a mapped file.

    It is for programs: in a library, the signal is its host's.
    """
    c_end_when_a_file_is_cut()


cdef int signal_raised() noexcept nogil:
    """Return whether a signal handler has raised an exception, which is then set."""
    with gil:
        return PyErr_CheckSignals() < 0


cdef int raise_pending() except -1:
    """Raise the exception that C code has set."""
    return -1


def check_header(bytes content, int64_t size, str path):
    """Check the header at the beginning of a file of this size, as far as it can be checked without the rest.

    Raises:
        ModelFileError: it is not that of a sound model file.
    """
    cdef ModelFile file
    cdef Problem problem
    file.data, file.size = content, size
    if len(content) >= C_ALIGNMENT and not header_is_valid(&file, &problem):
        raise ModelFileError(f"{path}: {sentence(&problem)}")


@cython.final
cdef class CheckedFile:
    """A valid model file in memory.

    Attributes:
        shape: its `Shape`.
    """

    cdef ModelFile file
    cdef Py_buffer view
    cdef readonly Shape shape

    def __cinit__(self, content, str path):
        """
        Args:
            content: the file, a buffer of bytes; referenced, not copied. path: its path, for messages.

        Raises:
            ModelFileError: it is not a sound model file.
        """
        cdef Problem problem
        PyObject_GetBuffer(content, &self.view, PyBUF_SIMPLE)
        if not modelfile_open(&self.file, self.view.buf, <size_t>self.view.len, &problem):
            raise ModelFileError(f"{path}: {sentence(&problem)}")
        cdef ModelShape* s = &self.file.shape
        numbers = s.n_vocab, s.n_ctx, s.n_embd, s.n_head, s.n_layer
        self.shape = Shape(numbers, WEIGHT_TYPES[s.type], s.group, not s.has_head)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def sections(self):
        """Return (name, offset, length, CRC32C in the header) of each section, a list in the order of `SECTIONS`."""
        cdef Section* s = self.file.sections
        cdef list found = []
        for i in range(N_SECTIONS):
            found.append((SECTIONS[i], s[i].offset, s[i].length, s[i].checksum))
        return found

    def tables(self):
        """Return the tables of the vocabulary section; see `vocabulary_tables`."""
        return tables_of(<uint32_t>self.file.shape.n_vocab, &self.file.vocabulary.counts)

    def checksum(self, str section):
        """Compute the CRC32C of a section, which takes as long as reading it. A signal handler may interrupt it."""
        cdef Section* one = &self.file.sections[<int>SECTIONS.index(section)]
        cdef uint32_t checksum
        cdef bint is_complete
        with nogil:
            is_complete = section_checksum(one, signal_raised, &checksum)
        if not is_complete:
            raise_pending()
        return checksum

    def nonzero_padding(self):
        """Return the offset of the first byte in the header or between sections that should be 0 and is not, or None.
        """
        cdef int64_t offset = modelfile_nonzero_padding(&self.file)
        return None if offset < 0 else offset
