# cython: language_level=3, freethreading_compatible=True
"""The kernels and what is built of them: checksums, weights, the state of a run and the forward pass.

What runs is C, in `core/`; here is what owns its memory, and what users can get wrong is found.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import os

from gpt2rt.errors import ContextFullError, UsageError, VocabularyError

cdef enum:
    MOST_TOKENS = 256  # of a pass: more add nothing to the speed, but memory

cdef const Kernels* KERNELS[8]
cdef int N_KERNELS = kernels_here(KERNELS)

crc32c_init()


def crc32c(content, uint32_t value=0):
    """The CRC32C of a contiguous buffer of bytes, continuing from `value` (of the bytes before it)."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = crc32c_update(value, <const uint8_t*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return result


def available_isas():
    """Names of the instruction sets that this build has kernels for and this processor can run, best first."""
    return [KERNELS[i].name.decode() for i in range(N_KERNELS)]


cdef const Kernels* kernels_named(str isa) except NULL:
    for i in range(N_KERNELS):
        if KERNELS[i].name.decode() == isa:
            return KERNELS[i]
    raise UsageError(f"instruction set {isa!r}: this machine can run {', '.join(available_isas())} (see GPT2RT_ISA)")


def evaluate(str function, bytes x, bytes y, bytes z, str isa):
    """What the kernels are made of, for who holds it against another implementation.

    Args:
        function: "exp" or "gelu" of x, or "fma": x * y + z. x, y, z: f32, equally many, a multiple of 16.
        isa: one of `available_isas()`.

    Returns:
        Bytes of f32, as many.
    """
    if len(x) % 64 or len(y) != len(x) or len(z) != len(x):
        raise ValueError(f"{len(x)}, {len(y)} and {len(z)} bytes: expected the same multiple of 64")
    cdef int code = {"exp": FUNCTION_EXP, "gelu": FUNCTION_GELU, "fma": FUNCTION_FMA}[function]
    result = bytearray(x)
    kernels_named(isa).evaluate(code, <float*><char*>result, <const float*><const char*>y,
                                <const float*><const char*>z, len(x) // 4)
    return bytes(result)


def read_bytes(bytes content, str isa):
    """Return the sum of the 64-bit words of `content`, modulo 2**64, as the kernels that measure memory read them.

    The last word is padded with zeros.

    Args:
        isa: one of `available_isas()`.
    """
    return kernels_named(isa).read_bytes(content, len(content))


# --- weights -------------------------------------------------------------------------------------------------------


@cython.final
cdef class Weights:
    """A file's weights as the kernels see them: pointers into the mapped section. Immutable, shared by threads."""

    cdef Network network
    cdef Py_buffer view
    cdef int type

    def __cinit__(self, section, hyperparameters, int weight_type, int64_t group_size, offsets, isa=None):
        """
        Args:
            section: buffer of the weights section; kept.
            hyperparameters: (n_vocab, n_ctx, n_embd, n_head, n_layer). weight_type: code of the file's header.
            offsets: byte offset of every tensor of `modelfile.tensor_table`, in its order.
            isa: one of `available_isas()`; the environment's GPT2RT_ISA, then the best one, where it is None.

        Raises:
            UsageError: the instruction set is none that can run here.
        """
        PyObject_GetBuffer(section, &self.view, PyBUF_SIMPLE)
        isa = isa or os.environ.get("GPT2RT_ISA")
        self.network.kernels = kernels_named(isa) if isa else KERNELS[0]
        self.type = weight_type
        cdef Config* c = &self.network.config
        c.n_vocab, c.n_ctx, c.n_embd, c.n_head, c.n_layer = hyperparameters
        cdef list places = list(offsets)
        cdef int64_t n = len(places), i
        cdef bint has_head = n > network_tensors(c.n_layer, False)
        if n != network_tensors(c.n_layer, has_head):
            raise ValueError(f"{n} tensors, expected {network_tensors(c.n_layer, has_head)}")
        cdef int64_t* at = <int64_t*>calloc(<size_t>n, sizeof(int64_t))  # (n)
        try:
            if at == NULL:
                raise MemoryError()
            for i in range(n):
                at[i] = places[i]
            if not network_open(&self.network, Tensors(<const uint8_t*>self.view.buf, at, weight_type, group_size),
                                has_head):
                raise MemoryError()
        finally:
            free(at)

    def __dealloc__(self):
        free(self.network.layers)
        PyBuffer_Release(&self.view)

    @property
    def isa(self):
        """The instruction set that the kernels use."""
        return self.network.kernels.name.decode()


# --- threads -------------------------------------------------------------------------------------------------------


@cython.final
cdef class ThreadTeam:
    """Threads that run forward passes together. A pass that finds its team busy runs on its caller alone."""

    cdef Team* team
    cdef readonly int n_threads

    def __cinit__(self, int n_threads):
        """
        Args:
            n_threads: the caller included; at least 1. Threads are started by the first pass.
        """
        self.n_threads = n_threads

    def __dealloc__(self):
        team_free(self.team)

    cdef Team* get(self) except? NULL:
        if self.n_threads == 1:
            return NULL
        with cython.critical_section(self):
            if self.team != NULL and not team_is_alive(self.team):
                team_free(self.team)  # inherited by fork(), without its threads
                self.team = NULL
            if self.team == NULL:
                self.team = team_new(self.n_threads)
                if self.team == NULL:
                    raise MemoryError()
        return self.team


cdef struct Reading:
    const Kernels* kernels
    const uint8_t* bytes  # (n)
    int64_t n
    Shared sum


cdef void read_share(void* argument, int member, int members) noexcept nogil:
    """Reads a member's partition of the bytes."""
    cdef Reading* reading = <Reading*>argument
    cdef int64_t begin = share(reading.n // 64, member, members) * 64
    cdef int64_t end = reading.n if member == members - 1 else share(reading.n // 64, member + 1, members) * 64
    shared_add(&reading.sum, <long>reading.kernels.read_bytes(reading.bytes + begin, end - begin))


def read_weights(Weights weights, ThreadTeam team):
    """Read all weights once with the threads of a team: the limit that memory sets to the speed of decoding.

    Returns:
        The sum of their 64-bit words, modulo the machine's long.
    """
    cdef Reading reading = Reading(weights.network.kernels, <const uint8_t*>weights.view.buf, weights.view.len, 0)
    cdef Team* members = team.get()
    with nogil:
        team_run(members, read_share, &reading)
    return reading.sum


# --- the state of a run --------------------------------------------------------------------------------------------


cdef class RunState:
    """A sequence in work: its tokens' keys and values, the activations of a pass, and the last tokens' logits."""

    cdef readonly Weights weights
    cdef readonly ThreadTeam team
    cdef readonly int64_t length    # tokens whose keys and values are known
    cdef readonly int64_t n_logits  # of the last tokens whose logits are at hand
    cdef Activations state
    cdef int64_t capacity           # tokens of a pass that `state` has room for
    cdef void* memory               # of `state`
    cdef float* logits_memory       # (logits_capacity, V), the last n_logits tokens' in its first rows
    cdef int64_t logits_capacity
    cdef float* batch_logits        # (batch_capacity, V), of a pass of several sequences
    cdef int64_t batch_capacity
    cdef void* cache_memory
    cdef uint8_t* k
    cdef uint8_t* v
    cdef KVCache cache
    cdef int64_t k_layer, v_layer
    cdef Shared taken

    def __cinit__(self, Weights weights, ThreadTeam team):
        cdef const Config* c = &weights.network.config
        self.weights, self.team = weights, team
        self.cache.type = TYPE_F32 if weights.type == TYPE_F32 else TYPE_F16
        self.cache.n_head, self.cache.head_dim, self.cache.n_ctx = c.n_head, c.head_dim, align(c.n_ctx, 16)
        self.k_layer, self.v_layer = kvcache_k_size(&self.cache), kvcache_v_size(&self.cache)
        # Zeroed by the system as it is touched: a cache costs the memory of the positions that are in use.
        self.cache_memory = calloc(<size_t>(c.n_layer * (self.k_layer + self.v_layer) + 64), 1)
        if self.cache_memory == NULL:
            raise MemoryError()
        self.k = <uint8_t*>align(<int64_t>self.cache_memory, 64)
        self.v = self.k + c.n_layer * self.k_layer

    def __dealloc__(self):
        free(self.cache_memory)
        free(self.memory)
        free(self.logits_memory)
        free(self.batch_logits)

    cdef int reserve(self, int64_t n_tokens) except -1:
        """Makes room for passes of n_tokens."""
        if n_tokens <= self.capacity:
            return 0
        n_tokens = MOST_TOKENS if n_tokens > 32 else 32 if n_tokens > 1 else 1
        cdef void* memory = activations_new(&self.state, &self.weights.network.config, n_tokens, self.team.n_threads)
        if memory == NULL:
            raise MemoryError()
        free(self.memory)
        self.memory, self.capacity = memory, n_tokens
        return 0

    cdef int reserve_logits(self, int64_t rows) except -1:
        """Makes room for the logits of so many tokens; those that were there are gone."""
        cdef int64_t V = self.weights.network.config.V
        if rows > self.logits_capacity:
            free(self.logits_memory)
            self.logits_capacity = self.n_logits = 0
            self.logits_memory = <float*>calloc(<size_t>(rows * V), sizeof(float))
            if self.logits_memory == NULL:
                raise MemoryError()
            self.logits_capacity = rows
        return 0

    cdef int reserve_batch_logits(self, int64_t rows) except -1:
        """Makes room for the logits of a pass of several sequences, which this one leads."""
        if rows > self.batch_capacity:
            free(self.batch_logits)
            self.batch_capacity = 0
            self.batch_logits = <float*>calloc(<size_t>(rows * self.weights.network.config.V), sizeof(float))
            if self.batch_logits == NULL:
                raise MemoryError()
            self.batch_capacity = rows
        return 0

    cdef int take(self) except -1:
        if shared_exchange(&self.taken, 1):
            raise UsageError("session: it is in use by another thread (fork() gives each thread its own)")
        return 0

    cdef int check(self, tokens) except -1:
        """Raises where these tokens can't be accepted."""
        cdef const Config* c = &self.weights.network.config
        if self.length + len(tokens) > c.n_ctx:
            raise ContextFullError(
                f"context: {self.length} tokens and {len(tokens)} more, the model has {c.n_ctx} positions"
                " (rewind or start a new session)"
            )
        for token in tokens:
            if not 0 <= token < c.n_vocab:
                raise VocabularyError(f"token {token}: the model's tokens are 0 to {c.n_vocab - 1}")
        return 0

    def accept(self, tokens, int64_t n_logits=1):
        """Runs tokens through the network, behind those that were accepted before. See `accept_together`."""
        accept_together([self], [tokens], n_logits)

    def rewind(self, int64_t length):
        """Forgets all tokens but the first `length`, and the logits of those that are forgotten."""
        if not 0 <= length <= self.length:
            raise UsageError(f"rewind to {length} tokens: the session has {self.length}")
        self.n_logits = max(0, self.n_logits - (self.length - length))
        self.length = length

    def fork(self):
        """A copy that goes its own way; it shares weights and threads."""
        cdef RunState other = RunState.__new__(RunState, self.weights, self.team)
        cdef const Config* c = &self.weights.network.config
        cdef KVCache source = self.cache, copy = self.cache
        cdef int64_t i
        self.take()
        try:
            for i in range(c.n_layer):
                source.k, source.v = self.k + i * self.k_layer, self.v + i * self.v_layer
                copy.k, copy.v = other.k + i * self.k_layer, other.v + i * self.v_layer
                kvcache_copy(&copy, &source, self.length)
            other.length = self.length
            other.reserve_logits(self.n_logits)
            if self.n_logits:
                memcpy(other.logits_memory, self.logits_memory, <size_t>(4 * c.V * self.n_logits))
            other.n_logits = self.n_logits
        finally:
            shared_store(&self.taken, 0)
        return other

    def logits(self, int64_t back=0):
        """The logits behind the last token, or behind the one `back` tokens before it: bytes of n_vocab f32, a copy.

        Raises:
            UsageError: they were not asked for when that token was accepted, or are gone since.
        """
        if not 0 <= back < self.n_logits:
            raise UsageError("logits: no token was accepted since the session began or was rewound")
        cdef const Config* c = &self.weights.network.config
        return (<const char*>(self.logits_memory + (self.n_logits - 1 - back) * c.V))[:4 * c.n_vocab]


cdef int raise_pending() except -1:
    """Raises what a signal handler has left pending."""
    return -1


def accept_together(list states, list tokens, int64_t n_logits=1):
    """Runs several sequences through the network at once: a matrix is read once for all of them.

    Args:
        states: distinct `RunState`s of one `Weights`. tokens: for each a sequence of ids, not empty.
        n_logits: of how many of its last tokens each is to keep the logits.

    Raises:
        VocabularyError: an id is out of range. ContextFullError: more tokens than positions are left. Both before
        anything has changed. A signal handler's exception (KeyboardInterrupt) may come up behind any layer; then the
        tokens of the passes before it are accepted, as `length` tells.
    """
    run_together(states, tokens, n_logits, NULL)


def profile(RunState state, tokens):
    """Accepts tokens and tells where the time went.

    Returns:
        {part: seconds}; a part is named for its matrix and includes what prepares its inputs and the wait behind it.
    """
    cdef double parts[N_PARTS]
    memset(parts, 0, sizeof(parts))
    run_together([state], [tokens], 1, parts)
    names = ("embedding", "attn.c_attn", "attention", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_f and head")
    return {name: parts[i] for i, name in enumerate(names)}


cdef int run_together(list states, list tokens, int64_t n_logits, double* parts) except -1:
    cdef RunState state, lead = states[0]
    cdef const Config* c = &lead.weights.network.config
    cdef int64_t n = len(states), total = 0, i, j, t, count, kept, row
    cdef list todo = [list(sequence) for sequence in tokens]
    cdef list places = []                 # (state, row of its logits) for each row of logits in a pass
    cdef int64_t* done = NULL             # (n) tokens of each sequence that are accepted
    cdef int32_t ids[MOST_TOKENS]
    cdef int64_t rows[MOST_TOKENS]
    cdef Span* spans = NULL
    cdef Pass p
    cdef list taken = []
    try:
        for state in states:
            state.take()
            taken.append(state)
            if state.weights is not lead.weights:
                raise UsageError("sessions: they are over different models, expected one model")
        for state, sequence in zip(states, todo, strict=True):
            state.check(sequence)
            total += len(sequence)
        for state, sequence in zip(states, todo):
            state.reserve_logits(min(n_logits, len(sequence)))
        lead.reserve(min(total, MOST_TOKENS))
        done = <int64_t*>calloc(<size_t>n, sizeof(int64_t))
        spans = <Span*>calloc(<size_t>min(n, MOST_TOKENS), sizeof(Span))
        if done == NULL or spans == NULL:
            raise MemoryError()
        memset(&p, 0, sizeof(p))
        p.network, p.state, p.team = &lead.weights.network, &lead.state, lead.team.get()
        p.cache, p.k_layer, p.v_layer = lead.cache, lead.k_layer, lead.v_layer
        p.tokens, p.spans, p.logit_rows = ids, spans, rows
        p.check_at = clock_seconds() + SIGNAL_INTERVAL
        p.parts = parts
        while total:
            p.n_tokens = p.n_spans = p.n_logits = 0
            places.clear()
            for i in range(n):
                state, sequence = states[i], todo[i]
                count = min(len(sequence) - done[i], MOST_TOKENS - p.n_tokens)
                if count == 0:
                    continue
                spans[p.n_spans] = Span(state.k, state.v, state.length, p.n_tokens, count)
                p.n_spans += 1
                kept = min(n_logits, <int64_t>len(sequence))
                state.n_logits = 0
                for t in range(done[i], done[i] + count):
                    row = t - (len(sequence) - kept)
                    if row >= 0:
                        rows[p.n_logits] = p.n_tokens
                        p.n_logits += 1
                        places.append((state, row))
                    ids[p.n_tokens] = sequence[t]
                    p.n_tokens += 1
            if n == 1:  # they can go where they belong
                row = places[0][1] if places else 0
                p.logits = lead.logits_memory + row * c.V
            elif p.n_logits:
                lead.reserve_batch_logits(p.n_logits)
                p.logits = lead.batch_logits
            with nogil:
                team_run(p.team, run_pass, &p)
            if p.stop:
                raise_pending()
            if n > 1:
                for j, (state, row) in enumerate(places):
                    memcpy(state.logits_memory + row * c.V, p.logits + j * c.V, <size_t>(4 * c.V))
            j = 0
            for i in range(n):
                state, sequence = states[i], todo[i]
                if j < p.n_spans and spans[j].k == state.k:
                    done[i] += spans[j].count
                    state.length += spans[j].count
                    total -= spans[j].count
                    j += 1
                    if done[i] == <int64_t>len(sequence):
                        state.n_logits = min(n_logits, <int64_t>len(sequence))
    finally:
        free(done)
        free(spans)
        for state in taken:
            shared_store(&state.taken, 0)
    return 0
