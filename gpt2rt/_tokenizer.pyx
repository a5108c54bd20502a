# cython: language_level=3, freethreading_compatible=True
"""Byte-level BPE over the mapped vocabulary of a model file (docs/format.md, "Vocabulary").

A text is split into pieces as by GPT-2's pattern
    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
over UTF-8, and the bytes of each piece are merged by rank: the pair of the least rank first, the leftmost of equals.
Nothing is built at start, and nothing that is read from the tables is believed: a damaged vocabulary gives wrong
tokens or a VocabularyError.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

import codecs

from gpt2rt.errors import UsageError, VocabularyError

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "kernels/unicode.h" nogil:
    int UNICODE_OTHER, UNICODE_SPACE
    int unicode_class(uint32_t c)


cdef struct Merge:
    uint32_t left, right  # tokens; left is NONE in an empty slot
    uint32_t rank
    uint32_t merged       # token


cdef struct Tables:
    const uint8_t* token_offsets   # u32 (n_vocab + 1)
    const uint8_t* byte_tokens     # u32 (256)
    const uint8_t* special_tokens  # u32 (n_special)
    const uint8_t* merge_slots     # Merge (n_slots)
    const uint8_t* token_bytes     # (n_token_bytes)
    uint32_t n_vocab, n_special, n_slots, n_token_bytes


cdef struct Ids:
    uint32_t* at  # (capacity), of which n are in use
    Py_ssize_t n, capacity


cdef enum:
    SHORT = 32         # bytes of a piece up to which looking at every pair beats a heap
    PATIENCE = 0x4000  # pieces or pairs between looks for Ctrl-C, a power of two

cdef uint32_t NONE = 0xFFFFFFFF     # no merge, no place
cdef uint32_t DAMAGED = 0xFFFFFFFE  # in place of a rank

cdef str END_OF_TEXT = "<|endoftext|>"
cdef str REMEDY = "(gpt2rt verify lists what is damaged; copy or convert the file again)"


cdef inline uint32_t load(const uint8_t* table, Py_ssize_t i) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, table + 4 * i, 4)
    return value


# --- merges --------------------------------------------------------------------------------------------------------


cdef inline uint32_t first_slot(uint32_t n_slots, uint32_t left, uint32_t right) noexcept nogil:
    """hash(left, right) of docs/format.md; n_slots is a power of two."""
    cdef uint64_t mixed = <uint32_t>(left * <uint32_t>0x9E3779B1 + right * <uint32_t>0x85EBCA77)
    return <uint32_t>(mixed * n_slots >> 32)


cdef inline uint32_t find_merge(const Tables* t, uint32_t left, uint32_t right, uint32_t* merged) noexcept nogil:
    """The rank of a pair; NONE where it does not merge, DAMAGED where the table can't be right.

    Args:
        merged: OUT, what the pair merges into.
    """
    cdef Merge merge
    cdef uint32_t slot = first_slot(t.n_slots, left, right), _probe
    for _probe in range(t.n_slots):
        memcpy(&merge, t.merge_slots + <size_t>slot * sizeof(Merge), sizeof(Merge))
        if merge.left == left and merge.right == right:
            merged[0] = merge.merged
            return DAMAGED if merge.merged >= t.n_vocab or merge.rank >= t.n_slots else merge.rank
        if merge.left == NONE:
            return NONE
        slot = (slot + 1) & (t.n_slots - 1)
    return DAMAGED


def build_merge_slots(merges, uint32_t n_slots):
    """The hash table of a vocabulary's merges.

    Args:
        merges: a list of distinct (left, right, merged) tokens, in the order of their ranks.
        n_slots: a power of two, at least twice as many.

    Returns:
        Bytes of the table `merge_slots` of docs/format.md, n_slots * 16 of them.
    """
    cdef uint32_t rank, slot
    cdef Merge merge
    if n_slots & (n_slots - 1) or n_slots < 2 * len(merges):
        raise ValueError(f"{n_slots} slots for {len(merges)} merges: expected a power of two, at least twice as many")
    table = bytearray(b"\xff" * (n_slots * sizeof(Merge)))
    cdef uint8_t* at = <uint8_t*><char*>table
    for rank, (left, right, merged) in enumerate(merges):
        merge.left, merge.right, merge.rank, merge.merged = left, right, rank, merged
        slot = first_slot(n_slots, merge.left, merge.right)
        while load(at, 4 * slot) != NONE:
            slot = (slot + 1) & (n_slots - 1)
        memcpy(at + slot * sizeof(Merge), &merge, sizeof(Merge))
    return bytes(table)


cdef Py_ssize_t merge_short(const Tables* t, uint32_t* tokens, Py_ssize_t n) noexcept nogil:
    """Merges a piece of 2 to SHORT tokens in place; returns how many are left, -1 where the table is damaged."""
    cdef uint32_t ranks[SHORT]  # of each token with the one behind it
    cdef uint32_t merged[SHORT]
    cdef Py_ssize_t i, best
    cdef uint32_t least
    for i in range(n - 1):
        ranks[i] = find_merge(t, tokens[i], tokens[i + 1], &merged[i])
        if ranks[i] == DAMAGED:
            return -1
    while True:
        least, best = NONE, 0
        for i in range(n - 1):
            if ranks[i] < least:
                least, best = ranks[i], i
        if least == NONE:
            return n
        tokens[best] = merged[best]
        n -= 1
        memmove(&tokens[best + 1], &tokens[best + 2], (n - best - 1) * sizeof(uint32_t))
        if best < n - 1:
            memmove(&ranks[best + 1], &ranks[best + 2], (n - best - 2) * sizeof(uint32_t))
            memmove(&merged[best + 1], &merged[best + 2], (n - best - 2) * sizeof(uint32_t))
            ranks[best] = find_merge(t, tokens[best], tokens[best + 1], &merged[best])
            if ranks[best] == DAMAGED:
                return -1
        if best:
            ranks[best - 1] = find_merge(t, tokens[best - 1], tokens[best], &merged[best - 1])
            if ranks[best - 1] == DAMAGED:
                return -1


cdef inline void sift_down(uint64_t* heap, size_t n, size_t i) noexcept nogil:
    cdef uint64_t key = heap[i]
    cdef size_t child = 2 * i + 1
    while child < n:
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i, child = child, 2 * child + 1
    heap[i] = key


cdef inline void push(uint64_t* heap, size_t n, uint64_t key) noexcept nogil:
    """Adds a key to a heap of n; there is room for it."""
    cdef size_t i = n, parent
    while i:
        parent = (i - 1) >> 1
        if heap[parent] <= key:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = key


cdef Py_ssize_t merge_long(const Tables* t, uint32_t* tokens, Py_ssize_t n) except -2:
    """Merges a piece of any length in place, in O(n log n): a heap of pairs over a linked list of tokens.

    Returns:
        How many tokens are left; -1 where the table is damaged.
    """
    cdef uint32_t* following  # (n), like the next three: the list's links
    cdef uint32_t* preceding
    cdef uint32_t* ranks      # as in merge_short
    cdef uint32_t* merged
    cdef uint64_t* heap       # (2 n) of rank << 32 | place of the left token
    cdef uint64_t key
    cdef size_t size = 0, steps = 0, i
    cdef uint32_t left, right, behind, before, rank
    if n >= <Py_ssize_t>NONE:
        raise UsageError(f"text: got {n} bytes without a break, expected less than {NONE}")
    # A merge takes one key off the heap and adds two at most.
    heap = <uint64_t*>malloc(n * (2 * sizeof(uint64_t) + 4 * sizeof(uint32_t)))
    if heap == NULL:
        raise MemoryError
    following = <uint32_t*>(heap + 2 * n)
    preceding, ranks, merged = following + n, following + 2 * n, following + 3 * n
    try:
        for left in range(<uint32_t>n):
            following[left], preceding[left], rank = left + 1, left - 1, NONE
            if left + 1 < <uint32_t>n:
                rank = find_merge(t, tokens[left], tokens[left + 1], &merged[left])
                if rank == DAMAGED:
                    return -1
            ranks[left] = rank
            if rank != NONE:
                heap[size] = <uint64_t>rank << 32 | left
                size += 1
            if left % PATIENCE == 0:
                PyErr_CheckSignals()
        for i in range(size // 2, 0, -1):
            sift_down(heap, size, i - 1)
        while size:
            steps += 1
            if steps % PATIENCE == 0:
                PyErr_CheckSignals()
            key = heap[0]
            size -= 1
            heap[0] = heap[size]
            sift_down(heap, size, 0)
            left = <uint32_t>key
            if ranks[left] != key >> 32:
                continue  # one of the two was merged with another since
            right = following[left]
            behind, before = following[right], preceding[left]
            tokens[left], ranks[right], following[left], rank = merged[left], NONE, behind, NONE
            if behind < <uint32_t>n:
                preceding[behind] = left
                rank = find_merge(t, tokens[left], tokens[behind], &merged[left])
                if rank == DAMAGED:
                    return -1
                if rank != NONE:
                    push(heap, size, <uint64_t>rank << 32 | left)
                    size += 1
            ranks[left] = rank
            if before != NONE:
                rank = ranks[before] = find_merge(t, tokens[before], tokens[left], &merged[before])
                if rank == DAMAGED:
                    return -1
                if rank != NONE:
                    push(heap, size, <uint64_t>rank << 32 | before)
                    size += 1
        left, size = 0, 0
        while left < <uint32_t>n:
            tokens[size] = tokens[left]
            size += 1
            left = following[left]
        return <Py_ssize_t>size
    finally:
        free(heap)


# --- pieces --------------------------------------------------------------------------------------------------------


cdef inline int class_at(const uint8_t* p, const uint8_t* end, Py_ssize_t* size) noexcept nogil:
    """The class of the character at p < end.

    Args:
        size: OUT, its bytes; 1 for what is no UTF-8, which is where a special token cuts a character.
    """
    cdef uint32_t c = p[0]
    cdef Py_ssize_t n = 1, i
    if c >= 0x80:
        n = 2 + (c >= 0xE0) + (c >= 0xF0)
        if c < 0xC0 or n > end - p:
            size[0] = 1
            return UNICODE_OTHER
        c &= 0x3F >> (n - 1)
        for i in range(1, n):
            c = c << 6 | (p[i] & 0x3F)
    size[0] = n
    return unicode_class(c)


cdef inline Py_ssize_t contraction(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """The bytes of 's 't 're 've 'm 'll 'd at p, an apostrophe; 0 where it is none of them."""
    cdef uint8_t first = p[1] if end - p > 1 else 0, second = p[2] if end - p > 2 else 0
    if first == b"s" or first == b"t" or first == b"m" or first == b"d":
        return 2
    if (first == b"r" or first == b"v") and second == b"e" or first == b"l" and second == b"l":
        return 3
    return 0


cdef const uint8_t* piece_end(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Where the piece that starts at p < end ends."""
    cdef const uint8_t* start = p
    cdef const uint8_t* last
    cdef Py_ssize_t size = 0, n
    cdef int kind, behind
    if p[0] == b"'":
        size = contraction(p, end)
        if size:
            return p + size
    kind = class_at(p, end, &size)
    if p[0] == b" " and end - p > 1:
        behind = class_at(p + 1, end, &n)
        if behind != UNICODE_SPACE:
            kind = behind
            size = 1 + n
    last = p
    p += size
    while p < end and class_at(p, end, &size) == kind:
        last = p
        p += size
    # The last of several white spaces is left to what follows.
    if kind == UNICODE_SPACE and p < end and last != start:
        return last
    return p


cdef int reserve(Ids* ids, Py_ssize_t more) except -1:
    """Makes room for more ids."""
    cdef Py_ssize_t capacity = ids.n + more
    if capacity <= ids.capacity:
        return 0
    capacity += capacity // 2 + 64
    cdef void* at = realloc(ids.at, capacity * sizeof(uint32_t))
    if at == NULL:
        raise MemoryError
    ids.at, ids.capacity = <uint32_t*>at, capacity
    return 0


cdef int encode_span(const Tables* t, const uint8_t* p, const uint8_t* end, Ids* ids) except -1:
    """Adds the tokens of the UTF-8 text from p to end, which holds no special token."""
    cdef const uint8_t* behind
    cdef uint32_t* tokens
    cdef Py_ssize_t n, i
    cdef size_t pieces = 0
    while p < end:
        behind = piece_end(p, end)
        n = behind - p
        reserve(ids, n)
        tokens = ids.at + ids.n
        for i in range(n):
            tokens[i] = load(t.byte_tokens, p[i])
            if tokens[i] >= t.n_vocab:
                raise VocabularyError(
                    f"vocabulary: byte {p[i]} has token {tokens[i]}, expected at most {t.n_vocab - 1} {REMEDY}"
                )
        if n > 1:
            n = merge_short(t, tokens, n) if n <= SHORT else merge_long(t, tokens, n)
            if n < 0:
                raise VocabularyError(f"vocabulary: its table of merges has no end or a token out of range {REMEDY}")
        ids.n += n
        p = behind
        pieces += 1
        if pieces % PATIENCE == 0:
            PyErr_CheckSignals()
    return 0


cdef str shown(bytes content):
    """A token's bytes as a sentence shows them."""
    return repr(content) if len(content) <= 40 else f"{content[:40]!r}... ({len(content)} bytes)"


# --- the tokenizer -------------------------------------------------------------------------------------------------


@cython.final
cdef class Tokenizer:
    """Text to tokens and back, over a vocabulary's tables. Immutable: threads may share it."""

    cdef Tables tables
    cdef Py_buffer views[5]  # what the pointers in tables point into

    def __cinit__(self, tables, n_vocab):
        """
        Args:
            tables: {name: buffer of bytes} as `ModelFile.vocabulary` gives them; kept, not copied.
            n_vocab: number of tokens.

        Raises:
            VocabularyError: the length of a table does not fit.
        """
        cdef Tables* t = &self.tables
        cdef int i
        for i, name in enumerate(("token_offsets", "byte_tokens", "special_tokens", "merge_slots", "token_bytes")):
            PyObject_GetBuffer(tables[name], &self.views[i], PyBUF_SIMPLE)
        offsets, byte_tokens, specials, slots, content = [view.len for view in self.views]
        n_slots = slots // sizeof(Merge)
        for name, length, fits, expected in (
            ("token_offsets", offsets, 0 < n_vocab < NONE and offsets == 4 * (n_vocab + 1), f"4 * ({n_vocab} + 1)"),
            ("byte_tokens", byte_tokens, byte_tokens == 4 * 256, "4 * 256"),
            ("special_tokens", specials, not specials % 4 and specials < NONE, "a multiple of 4"),
            (
                "merge_slots",
                slots,
                slots == n_slots * sizeof(Merge) and 0 < n_slots < 1 << 31 and not n_slots & (n_slots - 1),
                "16 times a power of two",
            ),
            ("token_bytes", content, content < NONE, f"less than {NONE}"),
        ):
            if not fits:
                raise VocabularyError(f"vocabulary: table {name!r} has {length} bytes, expected {expected}")
        t.token_offsets = <const uint8_t*>self.views[0].buf
        t.byte_tokens = <const uint8_t*>self.views[1].buf
        t.special_tokens = <const uint8_t*>self.views[2].buf
        t.merge_slots = <const uint8_t*>self.views[3].buf
        t.token_bytes = <const uint8_t*>self.views[4].buf
        t.n_vocab, t.n_special, t.n_slots, t.n_token_bytes = n_vocab, specials // 4, n_slots, content

    def __dealloc__(self):
        cdef int i
        for i in range(5):
            PyBuffer_Release(&self.views[i])

    @property
    def n_vocab(self):
        """Number of tokens."""
        return self.tables.n_vocab

    @property
    def end_of_text(self):
        """The id of `<|endoftext|>`, which parts documents; None where the vocabulary has none."""
        if self.tables.n_special:
            token = load(self.tables.special_tokens, 0)
            if self.bytes_of(token) == END_OF_TEXT.encode():
                return token
        return None

    def encode(self, text, *, bint special=False):
        """The tokens of a text.

        Args:
            text: any text; a lone surrogate is read as U+FFFD, as tiktoken does.
            special: makes the texts of special tokens, such as `<|endoftext|>`, those tokens: the leftmost first, and
                of several at one place the longest. Without it they are text like any other.

        Returns:
            A list of ids.

        Raises:
            VocabularyError: the vocabulary is damaged.
        """
        cdef bytes content
        if not isinstance(text, str):
            raise TypeError(f"text: got {type(text).__name__}, expected str")
        try:
            content = text.encode()
        except UnicodeEncodeError:  # a pair of surrogates is a character, a lone one is not
            content = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        cdef const uint8_t* start = <const uint8_t*><const char*>content
        cdef Py_ssize_t position = 0, i, at, behind
        cdef Ids ids = Ids(NULL, 0, 0)
        try:
            if special:
                for at, behind, token in self.special_places(content):
                    encode_span(&self.tables, start + position, start + at, &ids)
                    reserve(&ids, 1)
                    ids.at[ids.n] = token
                    ids.n += 1
                    position = behind
            encode_span(&self.tables, start + position, start + len(content), &ids)
            return [ids.at[i] for i in range(ids.n)]
        finally:
            free(ids.at)

    cdef list special_places(self, bytes content):
        """Where special tokens lie in a text: (start, end, id), in order, not overlapping."""
        from heapq import heapify, heappop, heapreplace

        cdef Py_ssize_t end = 0
        cdef uint32_t i
        ahead, places = [], []  # ahead: the next place of each special token
        for i in range(self.tables.n_special):
            token = load(self.tables.special_tokens, i)
            text = self.bytes_of(token)
            at = content.find(text) if text else -1
            if at >= 0:
                ahead.append((at, -len(text), i, token, text))
        heapify(ahead)
        while ahead:
            at, _, i, token, text = ahead[0]
            if at >= end:
                end = at + len(text)
                places.append((at, end, token))
            at = content.find(text, end)
            if at >= 0:
                heapreplace(ahead, (at, -len(text), i, token, text))
            else:
                heappop(ahead)
        return places

    def token_bytes(self, token):
        """The bytes of one token, by its id; they need not be whole characters. Raises VocabularyError."""
        return self.bytes_of(token)

    cdef bytes bytes_of(self, token):
        cdef Tables* t = &self.tables
        cdef Py_ssize_t i
        cdef uint32_t start, end
        try:
            i = token
        except OverflowError:
            i = -1
        if not 0 <= i < t.n_vocab:
            raise VocabularyError(f"token {token}: out of range, expected 0 to {t.n_vocab - 1}")
        start, end = load(t.token_offsets, i), load(t.token_offsets, i + 1)
        if not start <= end <= t.n_token_bytes:
            raise VocabularyError(
                f"token {i}: lies at bytes {start} to {end}, expected an order and at most {t.n_token_bytes} {REMEDY}"
            )
        return (<const char*>t.token_bytes + start)[: end - start]

    def decode_bytes(self, ids):
        """The bytes of tokens, joined. Raises VocabularyError where an id is out of range."""
        return b"".join([self.bytes_of(token) for token in ids])

    def decode(self, ids):
        """The text of tokens; bytes that are no UTF-8 become U+FFFD. Raises VocabularyError as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def problems(self, Py_ssize_t most=100):
        """Reads all tables wholly.

        Returns:
            A list of sentences, at most so many, about what is not as docs/format.md has it; empty if all is well.
        """
        found = []
        cdef Tables* t = &self.tables
        cdef Merge merge
        cdef uint32_t i, previous = 0, offset, empty = 0, first, slot
        for i in range(t.n_vocab + 1):
            offset = load(t.token_offsets, i)
            if offset < previous or offset > t.n_token_bytes or not i and offset:
                limit = t.n_token_bytes if i else 0
                found.append(f"offset {i} of the tokens is {offset}, expected {previous} to {limit}")
                return found  # no token's bytes are known
            previous = offset
        if previous != t.n_token_bytes:
            found.append(f"the last token ends at byte {previous}, expected {t.n_token_bytes}")
            return found

        made = bytearray(t.n_vocab)
        for i in range(256):
            token = load(t.byte_tokens, i)
            if token >= t.n_vocab:
                found.append(f"byte {i}: has token {token}, expected at most {t.n_vocab - 1}")
                continue
            made[token] = 1
            if self.bytes_of(token) != bytes((i,)):
                found.append(f"byte {i}: has token {token}, which is {shown(self.bytes_of(token))}")

        # A merge is found where no slot between its first one and its own is empty.
        while empty < t.n_slots and load(t.merge_slots, 4 * empty) != NONE:
            empty += 1
        if empty == t.n_slots:
            found.append("the table of merges has no empty slot")
            return found
        first = empty
        n_merges, ranks, pairs = 0, bytearray(t.n_slots), set()
        for i in range(1, t.n_slots):
            PyErr_CheckSignals()  # a hostile file's tokens may be of any length
            if len(found) >= most:
                return found[:most]
            slot = (first + i) & (t.n_slots - 1)
            memcpy(&merge, t.merge_slots + <size_t>slot * sizeof(Merge), sizeof(Merge))
            if merge.left == NONE:
                empty = slot
                continue
            n_merges += 1
            name = f"merge of tokens {merge.left} and {merge.right}"
            if merge.left >= t.n_vocab or merge.right >= t.n_vocab or merge.merged >= t.n_vocab:
                found.append(f"{name}: makes token {merge.merged}, expected all three to be at most {t.n_vocab - 1}")
                continue
            made[merge.merged] = 1
            home = first_slot(t.n_slots, merge.left, merge.right)
            if (slot - home) & (t.n_slots - 1) >= (slot - empty) & (t.n_slots - 1):
                found.append(f"{name}: lies in slot {slot}, where a search from slot {home} does not find it")
            pair = <uint64_t>merge.left << 32 | merge.right
            if pair in pairs:
                found.append(f"{name}: is there twice")
            pairs.add(pair)
            if merge.rank >= t.n_slots or ranks[merge.rank]:
                found.append(f"{name}: has rank {merge.rank}, expected one below {t.n_slots} that no other merge has")
            else:
                ranks[merge.rank] = 1
            parts = self.bytes_of(merge.left) + self.bytes_of(merge.right)
            if parts != self.bytes_of(merge.merged):
                content = shown(self.bytes_of(merge.merged))
                found.append(f"{name}: makes token {merge.merged}, {content}, expected {shown(parts)}")
        if 2 * n_merges > t.n_slots:
            found.append(f"{n_merges} merges in {t.n_slots} slots, expected at most half of them occupied")
        if ranks.rfind(1) >= n_merges:
            found.append(f"a merge has rank {ranks.rfind(1)}, expected ranks below {n_merges}, the number of merges")

        for i in range(t.n_special):
            token = load(t.special_tokens, i)
            if token >= t.n_vocab:
                found.append(f"special token {i}: is token {token}, expected at most {t.n_vocab - 1}")
            elif made[token]:
                found.append(f"special token {i}: is token {token}, which is made otherwise or listed twice")
            else:
                made[token] = 1
        for i in range(t.n_vocab):
            if not made[i]:
                found.append(f"token {i}: is no byte's, no merge's and no special one")
            if len(found) >= most:
                break
        return found[:most]


@cython.final
cdef class StreamDecoder:
    """Text of tokens that come one by one: bytes of an unfinished character wait for the next token.

    All pieces together are what `Tokenizer.decode` gives for all ids.
    """

    cdef Tokenizer tokenizer
    cdef object decoder

    def __init__(self, Tokenizer tokenizer not None):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token):
        """The text that is certain after one more token, maybe none. Raises VocabularyError."""
        return self.decoder.decode(self.tokenizer.bytes_of(token))

    def finish(self):
        """What is left: U+FFFD for an unfinished character. The decoder is then as new."""
        text = self.decoder.decode(b"", True)
        self.decoder.reset()
        return text
