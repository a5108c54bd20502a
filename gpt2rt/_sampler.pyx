# cython: language_level=3, freethreading_compatible=True
"""Sampler: draws the next token from logits, the same one on every machine.

What decides a token is plain IEEE arithmetic in a fixed order: own exponential, own random generator, no libm. All
logits are looked at once, in blocks; what may be among the chosen few is gathered, and only that is put in order.
"""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from gpt2rt.errors import Gpt2rtError, UsageError, VocabularyError

cdef enum:
    BLOCK = 64          # logits whose maximum is kept together
    FEW = 32            # candidates that are sorted outright
    MAX_PARTITIONS = 64  # then the rest is sorted: an order made to be slow costs n log n

cdef int64_t LOW_HALF = 0xFFFFFFFF
cdef int32_t POSITIVE_INFINITY = 0x7F800000   # as `ordered` gives it
cdef int32_t NEGATIVE_INFINITY = -0x7F800001

# A token that may be chosen. `rank` puts the greater logit first, then the lower id: (logit as integer, -id).
ctypedef struct Candidate:
    int64_t rank
    double weight


# --- arithmetic ----------------------------------------------------------------------------------------------------


cdef inline double exp_negative(double x) noexcept nogil:
    """e^x for x <= 0, to about 2e-16 relative; 0 below -708.

    x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, the first ends in zeros so that k times it is exact),
    then Taylor's series, whose rest is below 5e-18, and k added to the exponent.
    """
    cdef double r, r2, y, rounded
    cdef int64_t k, bits
    if x < -708.0:
        return 0.0
    rounded = x * 1.4426950408889634 + 6755399441055744.0  # 1.5 * 2^52: the last bits are the nearest whole number
    memcpy(&k, &rounded, 8)
    rounded -= 6755399441055744.0
    r = (x - rounded * 0.6931471803691238) - rounded * 1.9082149292705877e-10
    r2 = r * r
    # Two halves, so that a processor can work on both at once; 1 + r last, which keeps the rounding small.
    y = 1 / 479001600.0 + r * (1 / 6227020800.0)
    y = y * r2 + (1 / 3628800.0 + r * (1 / 39916800.0))
    y = y * r2 + (1 / 40320.0 + r * (1 / 362880.0))
    y = y * r2 + (1 / 720.0 + r * (1 / 5040.0))
    y = y * r2 + (1 / 24.0 + r * (1 / 120.0))
    y = y * r2 + (0.5 + r * (1 / 6.0))
    y = 1.0 + (r + r2 * y)
    memcpy(&bits, &y, 8)
    bits = <int64_t>(<uint64_t>bits + (<uint64_t>k << 52))
    memcpy(&y, &bits, 8)
    return y


cdef inline int32_t ordered(float x) noexcept nogil:
    """The float's bits as an integer that orders as floats do; NaN is above or below the infinities."""
    cdef int32_t bits
    x = x + <float>0.0  # -0 becomes +0
    memcpy(&bits, &x, 4)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


cdef inline double from_ordered(int32_t key) noexcept nogil:
    cdef int32_t bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    cdef float x
    memcpy(&x, &bits, 4)
    return x


cdef inline int64_t rank_of(int32_t key, int64_t token) noexcept nogil:
    return <int64_t>key * (<int64_t>1 << 32) - token


cdef inline int32_t key_of(int64_t rank) noexcept nogil:
    return <int32_t>((rank + LOW_HALF) >> 32)


cdef inline int64_t id_of(int64_t rank) noexcept nogil:
    return -rank & LOW_HALF


cdef inline uint64_t rotate_left(uint64_t x, int n) noexcept nogil:
    return (x << n) | (x >> (64 - n))


# --- selection -----------------------------------------------------------------------------------------------------


cdef inline void swap(Candidate* a, Candidate* b) noexcept nogil:
    cdef Candidate c = a[0]
    a[0] = b[0]
    b[0] = c


cdef inline void sift_down(Candidate* c, int64_t i, int64_t n) noexcept nogil:
    cdef int64_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            return
        if child + 1 < n and c[child + 1].rank < c[child].rank:
            child += 1
        if c[i].rank <= c[child].rank:
            return
        swap(&c[i], &c[child])
        i = child


cdef void sort_descending(Candidate* c, int64_t n) noexcept nogil:
    """Heapsort: no memory, no slow case."""
    cdef int64_t i
    for i in range(n // 2 - 1, -1, -1):
        sift_down(c, i, n)
    for i in range(n - 1, 0, -1):
        swap(&c[0], &c[i])
        sift_down(c, 0, i)


cdef int64_t leading(Candidate* c, int64_t n, double target) noexcept nogil:
    """Brings to the front the least number of highest ranks whose weights together reach the target.

    Args:
        c: (n), INOUT reordered. target: all n where the weights don't reach it.

    Returns:
        How many; at least one. Quickselect by weight: the part that holds the border is split again.
    """
    cdef int64_t low = 0, high = n, i, front, middle, rounds = 0, pivot
    cdef double before = 0.0, weight
    cdef int64_t a, b, d
    while high - low > FEW and rounds < MAX_PARTITIONS:
        rounds += 1
        middle = low + (high - low) // 2
        a, b, d = c[low].rank, c[middle].rank, c[high - 1].rank
        pivot = max(min(a, b), min(max(a, b), d))
        front, weight = low, 0.0
        for i in range(low, high):
            if c[i].rank >= pivot:
                weight += c[i].weight
                swap(&c[front], &c[i])
                front += 1
        if front == high:  # the pivot is the least: put it last, it is decided on alone
            for i in range(low, high):
                if c[i].rank == pivot:
                    swap(&c[i], &c[high - 1])
                    break
            if before + (weight - c[high - 1].weight) < target:
                return high
            high -= 1
        elif before + weight >= target:
            high = front
        else:
            before += weight
            low = front
    sort_descending(c + low, high - low)
    for i in range(low, high):
        before += c[i].weight
        if before >= target:
            return i + 1
    return high


# --- the sampler ---------------------------------------------------------------------------------------------------


@cython.final
cdef class Sampler:
    """Draws tokens as `params` say; its random draws follow from `seed` alone.

    The order of the filters is the usual one, so that settings can be carried over from other programs: penalties and
    forbidden tokens first, since they say what the model should have wanted; then temperature, so that top_p and min_p
    cut the distribution that is drawn from; then top_k, top_p of what top_k left, and min_p. The most likely token
    always stays.

    Attributes:
        params: the `SamplingParams`. seed: 0 to 2^64 - 1.
    """

    cdef readonly object params
    cdef readonly object seed
    cdef object exempt
    cdef double temperature, top_p, min_p
    cdef int64_t top_k, repeat_last_n, no_repeat_ngram_size
    cdef float penalty
    cdef uint64_t[4] state           # of xoshiro256**
    cdef int64_t n_vocab             # that there is memory for
    cdef float* logits               # (n_vocab) a copy, penalized
    cdef int32_t* block_max          # (n_vocab / BLOCK) of `ordered` logits
    cdef Candidate* pool             # (n_vocab)
    cdef uint8_t* seen               # (n_vocab) zero between calls

    def __cinit__(self, params, seed, exempt=()):
        """
        Args:
            params: a `SamplingParams`. seed: 0 to 2^64 - 1.
            exempt: ids that are neither penalized nor forbidden as repetitions, such as the newline.

        Raises:
            UsageError: the seed is out of range.
        """
        cdef uint64_t x, z
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise UsageError(f"seed: got {seed!r}, expected a whole number from 0 to {(1 << 64) - 1}")
        self.seed, self.exempt = seed, frozenset(exempt)
        self.use(params)
        x = seed  # splitmix64 fills the state, as the generator's authors (Blackman and Vigna) ask
        for i in range(4):
            x += <uint64_t>0x9E3779B97F4A7C15
            z = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
            z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
            self.state[i] = z ^ (z >> 31)

    def __dealloc__(self):
        self.release()

    def use(self, params):
        """Draws on with other parameters, where the random generator stands."""
        self.params = params
        self.temperature, self.top_k, self.top_p, self.min_p = (
            params.temperature, params.top_k, params.top_p, params.min_p)
        self.penalty, self.repeat_last_n, self.no_repeat_ngram_size = (
            params.repetition_penalty, params.repeat_last_n, params.no_repeat_ngram_size)

    cdef void release(self) noexcept:
        free(self.logits)
        free(self.block_max)
        free(self.pool)
        free(self.seen)
        self.logits, self.block_max, self.pool, self.seen = NULL, NULL, NULL, NULL
        self.n_vocab = 0

    cdef int reserve(self, int64_t n_vocab) except -1:
        if n_vocab == self.n_vocab:
            return 0
        self.release()
        self.logits = <float*>calloc(<size_t>n_vocab, sizeof(float))
        self.block_max = <int32_t*>calloc(<size_t>(n_vocab // BLOCK + 1), sizeof(int32_t))
        self.pool = <Candidate*>calloc(<size_t>n_vocab, sizeof(Candidate))
        self.seen = <uint8_t*>calloc(<size_t>n_vocab, 1)
        if not (self.logits and self.block_max and self.pool and self.seen):
            self.release()
            raise MemoryError()
        self.n_vocab = n_vocab
        return 0

    cdef uint64_t next_random(self) noexcept:
        """xoshiro256** (Blackman and Vigna, Scrambled linear pseudorandom number generators, 2021)."""
        cdef uint64_t* s = self.state
        cdef uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate_left(s[3], 45)
        return result

    cdef int copy(self, logits) except -1:
        cdef Py_buffer view
        PyObject_GetBuffer(logits, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        try:
            code = (<bytes>view.format).decode() if view.format != NULL else "B"
            if code not in ("f", "<f", "=f", "@f", "B", "c") or view.len % 4 or view.len == 0:
                raise UsageError(f"logits: got {view.len} bytes of {code!r}, expected f32 (n_vocab,)")
            self.reserve(view.len // 4)
            memcpy(self.logits, view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int64_t token(self, token) except -1:
        if not 0 <= token < self.n_vocab:
            raise VocabularyError(f"token {token}: the model's tokens are 0 to {self.n_vocab - 1}")
        return token

    cdef int penalize(self, history) except -1:
        """Makes the tokens of the window less likely, each once however often it is there."""
        cdef int64_t n = len(history), token, first = max(0, n - self.repeat_last_n), i
        if self.penalty == 1 or first == n:
            return 0
        window = [self.token(history[i]) for i in range(first, n)]
        for token in window:
            if not self.seen[token] and token not in self.exempt:
                self.seen[token] = 1
                if self.logits[token] > 0:
                    self.logits[token] /= self.penalty
                else:
                    self.logits[token] *= self.penalty
        for token in window:
            self.seen[token] = 0
        return 0

    cdef int forbid_repetition(self, history) except -1:
        """Forbids tokens that followed before what the history ends with."""
        cdef int64_t n = len(history), width = self.no_repeat_ngram_size - 1, i
        cdef float infinity
        cdef int32_t bits = -0x800000
        if self.no_repeat_ngram_size == 0 or n < self.no_repeat_ngram_size:
            return 0
        memcpy(&infinity, &bits, 4)
        end = list(history[n - width:]) if width else []
        for i in range(n - width):
            if width == 0 or (history[i] == end[0] and list(history[i:i + width]) == end):
                token = history[i + width]
                if token not in self.exempt:
                    self.logits[self.token(token)] = infinity
        return 0

    cdef int64_t choose(self, logits, history) except -1:
        """Fills the front of `pool` with the tokens that may be drawn and their weights; returns how many."""
        cdef int64_t n, n_blocks, i, b, end, count = 0, kept
        cdef int32_t key, greatest, least, threshold
        cdef double top, total = 0.0
        cdef Candidate* c
        self.copy(logits)
        self.penalize(history)
        self.forbid_repetition(history)
        n, c = self.n_vocab, self.pool
        n_blocks = (n + BLOCK - 1) // BLOCK
        least = greatest = ordered(self.logits[0])
        for b in range(n_blocks):
            end = min(n, (b + 1) * BLOCK)
            threshold = -0x7FFFFFFF - 1
            for i in range(b * BLOCK, end):
                key = ordered(self.logits[i])
                threshold = max(threshold, key)
                least = min(least, key)
            self.block_max[b] = threshold
            greatest = max(greatest, threshold)
        if greatest >= POSITIVE_INFINITY or least < NEGATIVE_INFINITY:
            raise Gpt2rtError("logits are not finite: the weights are damaged (gpt2rt verify tells) or untrained")
        if greatest == NEGATIVE_INFINITY:
            raise Gpt2rtError("every token is forbidden (no_repeat_ngram_size is too small for this vocabulary)")

        # The k-th greatest block maximum is a floor of the k-th greatest logit.
        threshold = NEGATIVE_INFINITY + 1
        if self.temperature == 0:
            threshold = greatest
        elif 0 < self.top_k < n_blocks:
            for b in range(n_blocks):
                c[b].rank, c[b].weight = rank_of(self.block_max[b], b), 1.0
            kept = leading(c, n_blocks, <double>self.top_k)
            for b in range(kept):
                if b == 0 or c[b].rank < c[0].rank:
                    c[0].rank = c[b].rank
            threshold = max(threshold, key_of(c[0].rank))
        for b in range(n_blocks):
            if self.block_max[b] >= threshold:
                for i in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
                    key = ordered(self.logits[i])
                    if key >= threshold:
                        c[count].rank, c[count].weight = rank_of(key, i), 1.0
                        count += 1
        if self.temperature == 0:
            return 1  # gathered by id, so the first is the lowest
        if self.top_k:
            count = leading(c, count, <double>self.top_k)
        top = from_ordered(greatest)
        for i in range(count):
            key = key_of(c[i].rank)
            c[i].weight = exp_negative((from_ordered(key) - top) / self.temperature)
            total += c[i].weight
        if self.top_p < 1:
            count = leading(c, count, self.top_p * total)
        if self.min_p > 0:
            kept = 0
            for i in range(count):
                if c[i].weight >= self.min_p:  # the most likely token's weight is 1
                    c[kept] = c[i]
                    kept += 1
            count = kept
        return count

    def sample(self, logits, history=()):
        """The next token.

        Args:
            logits: buffer of f32 (n_vocab,), or of its bytes; -inf forbids a token. Not changed.
            history: a sequence of the ids generated so far, oldest first: repetition_penalty looks at the last
                repeat_last_n of them, no_repeat_ngram_size at all.

        Raises:
            Gpt2rtError: a logit is NaN or +inf, or all are forbidden. VocabularyError: an id is out of range.
        """
        cdef int64_t count, i
        cdef double at, total = 0.0
        cdef Candidate* c
        with cython.critical_section(self):
            count = self.choose(logits, history)
            c = self.pool
            if count > 1:
                for i in range(count):
                    total += c[i].weight
                at = <double>(self.next_random() >> 11) * (1.0 / 9007199254740992.0) * total
                for i in range(count):
                    at -= c[i].weight
                    if at < 0:
                        break
                else:
                    i = 0  # a rounded sum: the end was passed by less than an ulp
            else:
                i = 0
            return id_of(c[i].rank)

    def candidates(self, logits, history=()):
        """What `sample` would draw from: a list of (id, probability), the most likely first. Args as `sample`."""
        cdef int64_t count, i
        cdef double total = 0.0
        with cython.critical_section(self):
            count = self.choose(logits, history)
            sort_descending(self.pool, count)
            for i in range(count):
                total += self.pool[i].weight
            return [(id_of(self.pool[i].rank), self.pool[i].weight / total) for i in range(count)]


def exp_of(double x):
    """The sampler's own e^x, for x <= 0."""
    if not x <= 0:
        raise UsageError(f"exp_of: got {x}, expected at most 0")
    return exp_negative(x)
