# cython: language_level=3, freethreading_compatible=True
"""Sequences, and the engine that advances them: owners of the C structs in `core/`, which check arguments and raise.

The work is done in C without Python: `core/engine.h` plans a forward pass over any mix of prompts and decoding
sequences, runs it, samples and commits; `core/sequence.h` defines a commit. The file has about 1,080 lines because a
sequence and its engine depend on each other; half of them are docstrings and checks.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import sys
from _thread import get_ident
from collections.abc import Mapping

from gpt2rt._kernels cimport Config, Kernels, Weights
from gpt2rt._sampler cimport LogitBias, options_of, random_seed, token_logprob
from gpt2rt.arguments import real_number, whole_number
from gpt2rt.errors import CancelledError, ContextFullError, Gpt2rtError, UsageError, VocabularyError
from gpt2rt.sampling import SamplingParams, new_seed

cdef extern from "Python.h":
    int PyErr_CheckSignals()
    object PyNumber_Index(object)
    long long PyLong_AsLongLongAndOverflow(object, int* overflow) except? -1

cdef object MANY = 1 << 62  # more than any number of tokens
cdef double MAX_BIAS = 100  # of a logit, either way


# --- arguments -----------------------------------------------------------------------------------------------------


@cython.final
cdef class Ids:
    """Checked token ids as a C array."""

    cdef int32_t* data  # (n)
    cdef int64_t n

    def __cinit__(self, tokens, int64_t n_vocab):
        """
        Raises:
            UsageError: an item is not an integer. VocabularyError: an id is out of range.
        """
        cdef list items = list(items_of(tokens))
        cdef int64_t number
        cdef int overflow
        self.data = <int32_t*>malloc(max(1, len(items)) * sizeof(int32_t))
        if self.data == NULL:
            raise MemoryError()
        for item in items:
            try:
                token = None if isinstance(item, bool) else PyNumber_Index(item)
            except TypeError:
                token = None
            if token is None:
                raise UsageError(f"tokens: got an item {item!r:.80}, expected ids")
            number = PyLong_AsLongLongAndOverflow(token, &overflow)  # a subclass compares as it likes
            if overflow or not 0 <= number < n_vocab:
                raise VocabularyError(f"token {token}: out of range, expected 0 to {n_vocab - 1}")
            self.data[self.n] = <int32_t>number
            self.n += 1

    def __dealloc__(self):
        free(self.data)

    cdef int32_t* release(self):
        """Return the array, which the caller then owns."""
        cdef int32_t* data = self.data
        self.data = NULL
        return data


@cython.final
cdef class LogitBiases:
    """Checked biases of logits as a C array."""

    cdef LogitBias* data  # (n)
    cdef int64_t n

    def __cinit__(self, biases, int64_t n_vocab):
        """
        Raises:
            UsageError: it is not a mapping of ids to numbers, or a number is out of range. VocabularyError: an id is.
        """
        if not isinstance(biases, Mapping):
            raise UsageError(f"logit_bias: got {biases!r:.80}, expected a dict {{id: bias}}")
        cdef dict items = dict(biases)
        cdef Ids ids = Ids(items, n_vocab)
        cdef int64_t i = 0
        self.data = <LogitBias*>malloc(<size_t>max(1, ids.n) * sizeof(LogitBias))
        if self.data == NULL:
            raise MemoryError()
        for bias in items.values():
            self.data[i].token = ids.data[i]
            self.data[i].bias = real_number(f"logit_bias of token {ids.data[i]}", bias, -MAX_BIAS, MAX_BIAS)
            i += 1
        self.n = i

    def __dealloc__(self):
        free(self.data)

    cdef LogitBias* release(self):
        """Return the array, which the caller then owns."""
        cdef LogitBias* data = self.data
        self.data = NULL
        return data


cdef object items_of(tokens):
    """Return an iterator over ids, which are not checked. Raises UsageError if it is text or can't be iterated over."""
    if isinstance(tokens, (str, bytes, bytearray)):
        raise UsageError(f"tokens: got text {tokens!r:.80}, expected ids (encode it with the tokenizer)")
    try:
        return iter(tokens)
    except TypeError:
        raise UsageError(f"tokens: got {tokens!r:.80}, expected ids") from None


cdef list top_of(const Score* score, int n):
    cdef list top = []
    for i in range(n):
        top.append((score.top_ids[i], score.top_logprobs[i]))
    return top


cdef int number_of_logprobs(str name, n, int64_t n_vocab) except -2:
    """Return how many of the most likely tokens to find; -1 for None."""
    return -1 if n is None else whole_number(name, n, 0, min(<int64_t>MAX_TOP_LOGPROBS, n_vocab))


cdef list ids_list(const int32_t* ids, int64_t n):
    cdef list found = []
    cdef int64_t i
    for i in range(n):
        found.append(ids[i])
    return found


# --- signals -------------------------------------------------------------------------------------------------------


cdef int run_signal_handlers() noexcept nogil:
    """Run Python's pending signal handlers; return whether one raised, with its exception set."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef bint is_main_thread():
    """Return whether signal handlers run on this thread. Before threading is imported, there is no other thread."""
    threading = sys.modules.get("threading")
    return threading is None or threading.main_thread().ident == get_ident()


cdef int raise_pending() except -1:
    """Raise the exception that a signal handler has set."""
    return -1


# --- threads -------------------------------------------------------------------------------------------------------


@cython.final
cdef class Runtime:
    """A model's weights, its threads and its idle engines; shared by all of its sequences."""

    cdef readonly Weights weights
    cdef readonly int n_threads
    cdef ThreadPool* pool
    cdef Engine idle  # a linked list of idle engines, so that returning one allocates nothing

    def __cinit__(self, Weights weights not None, int n_threads):
        """
        Args:
            n_threads: threads of a forward pass, including the caller's; at least 1. The first pass starts them.

        Raises:
            UsageError: there are fewer.
        """
        if n_threads < 1:
            raise UsageError(f"n_threads: got {n_threads}, expected at least 1")
        self.weights, self.n_threads = weights, n_threads

    def __dealloc__(self):
        pool_free(self.pool)

    @property
    def kv_cache_bytes_per_token(self):
        """The bytes that the keys and values of one token take in a sequence's KV cache."""
        return cache_position_size(&self.weights.network)

    cdef ThreadPool* threads(self) except? NULL:
        if self.n_threads == 1:
            return NULL
        with cython.critical_section(self):
            if self.pool != NULL and not pool_is_alive(self.pool):
                pool_free(self.pool)  # inherited by fork(), without its threads
                self.pool = NULL
            if self.pool == NULL:
                self.pool = pool_new(self.n_threads)
                if self.pool == NULL:
                    raise MemoryError()
        return self.pool

    cdef Engine borrow(self):
        """Return an idle engine, or a new one; return it with `give_back`."""
        cdef Engine engine
        with cython.critical_section(self):
            engine = self.idle
            if engine is not None:
                self.idle, engine.next_idle = engine.next_idle, None
        return Engine(self) if engine is None else engine

    cdef void give_back(self, Engine engine) noexcept:
        with cython.critical_section(self):
            engine.next_idle, self.idle = self.idle, engine


cdef Runtime runtime_of(model):
    """Return the runtime of a `Model`, or `model` itself if it is a runtime."""
    runtime = model if isinstance(model, Runtime) else getattr(model, "_runtime", None)
    if not isinstance(runtime, Runtime):
        raise UsageError(f"model: got {model!r:.80}, expected a Model (open_model opens one)")
    return runtime


cdef struct Reading:
    const Kernels* kernels
    const uint8_t* bytes  # (n)
    int64_t n
    Atomic sum


cdef void read_part(void* argument, Worker* worker) noexcept nogil:
    """Read a worker's part of the bytes."""
    cdef Reading* reading = <Reading*>argument
    cdef int64_t begin = partition(reading.n // 64, worker.index, worker.count) * 64
    cdef int64_t end = reading.n
    if worker.index < worker.count - 1:
        end = partition(reading.n // 64, worker.index + 1, worker.count) * 64
    atomic_add(&reading.sum, <long>reading.kernels.read_bytes(reading.bytes + begin, end - begin))


def read_weights(Runtime runtime not None):
    """Read all weights once with the threads of a model: memory bandwidth limits the speed of decoding to this.

    Returns:
        The sum of their 64-bit words, truncated to a C long.
    """
    cdef Weights weights = runtime.weights
    cdef Reading reading = Reading(weights.network.kernels, <const uint8_t*>weights.view.buf, weights.view.len, 0)
    cdef ThreadPool* pool = runtime.threads()
    with nogil:
        pool_run(pool, read_part, &reading)
    return reading.sum


# --- sequences -----------------------------------------------------------------------------------------------------


@cython.final
cdef class Trace:
    """Intermediate results of a forward pass.

    Attributes:
        hidden: numpy array of f32 (n_layer + 1, n_tokens, n_embd): the residual stream before each layer, and after the
            last one (before the final layer norm).
        middle: numpy array of f32 (n_layer, n_tokens, n_embd): the residual stream between each layer's attention and
            its MLP.
        heads: numpy array of f32 (n_layer, n_tokens, n_head, head_dim): what each head of attention puts out, before
            the matrix attn.c_proj.
        attention: numpy array of f32 (n_layer, n_head, n_tokens, n_positions): the attention weight of each token's
            query on each position; 0 after its own.
    """

    cdef readonly object hidden
    cdef readonly object middle
    cdef readonly object heads
    cdef readonly object attention


cdef Trace new_trace(const Config* c, int64_t n, int64_t n_positions, CTrace* found):
    """Return a trace of n tokens, the last of n_positions. OUT found: where a pass writes it."""
    cdef Trace trace = Trace.__new__(Trace)
    memset(found, 0, sizeof(found[0]))
    trace.hidden = new_array((c.n_layer + 1, n, c.n_embd))
    trace.middle = new_array((c.n_layer, n, c.n_embd))
    trace.heads = new_array((c.n_layer, n, c.n_head, c.head_dim))
    trace.attention = new_array((c.n_layer, c.n_head, n, n_positions))
    found.hidden, found.middle = data_of(trace.hidden), data_of(trace.middle)
    found.heads, found.attention = data_of(trace.heads), data_of(trace.attention)
    found.n_rows, found.n_positions = n, n_positions
    return trace


cdef object raised(SequenceStatus status, bint has_raised, str what):
    """Return the exception for a status other than SEQUENCE_OK; None if a signal handler's exception is already set."""
    if status == SEQUENCE_NO_MEMORY:
        return MemoryError()
    if status == SEQUENCE_STOPPED:
        return None if has_raised else CancelledError(f"{what}: cancelled")
    if status == SEQUENCE_EMPTY:
        return UsageError(f"{what}: no tokens to continue (append a prompt first)")
    if status == SEQUENCE_FULL:
        return ContextFullError(f"{what}: the context is full, there is no position for the next token")
    if status == SEQUENCE_ALL_FORBIDDEN:
        return Gpt2rtError("all tokens are forbidden (no_repeat_ngram_size is too small for this vocabulary)")
    return Gpt2rtError("logits are not finite: the weights are damaged or untrained (run gpt2rt verify)")


@cython.final
cdef class Copied:
    """What a forked sequence is a copy of. Only `fork` fills one in: the counts are not checked again."""

    cdef Sequence source
    cdef int64_t length, n_ids


@cython.final
cdef class Sequence:
    """Token ids with their KV cache, kept logits and sampler state. Any number of sequences can share a model.

    The logits depend only on the model file and the tokens: not on how the tokens were split over calls, nor on
    truncating, forking, threads, batches or the processor. Every operation is a transaction: after an exception, a
    signal or a cancelled call, the sequence is unchanged, or at the end of a completed part of a long prompt. Only one
    thread may use a sequence at a time; any other gets a UsageError.

    Attributes:
        model: the `Model` or `Runtime` it was created with.
    """

    cdef CSequence c
    cdef readonly Runtime runtime
    cdef readonly object model
    cdef object params
    cdef object last_seed

    def __cinit__(self, model, *, Copied _copied=None):
        cdef Sequence source = None if _copied is None else _copied.source
        self.model = model
        self.runtime = runtime_of(model)
        if source is None and getattr(model, "_is_closed", False):
            raise UsageError(f"{model.path}: the model is closed (open it again)")
        if not (sequence_open(&self.c, &self.runtime.weights.network) if source is None
                else sequence_copy(&self.c, &source.c, _copied.length, _copied.n_ids)):
            raise MemoryError()

    def __dealloc__(self):
        sequence_free(&self.c)

    cdef int take(self) except -1:
        cdef LockResult result = lock_take(&self.c.lock)
        if result == LOCK_IN_USE:
            raise UsageError("sequence: already in use, by another thread or twice in a step (fork() makes a copy)")
        if result == LOCK_TORN:
            raise UsageError("sequence: the process was forked while the sequence was being changed (create a new one)")
        return 0

    cdef void release(self) noexcept:
        lock_release(&self.c.lock)

    # --- state; what is read without the lock is what the last commit has published

    def __len__(self):
        """The number of evaluated tokens, whose keys and values are in the KV cache."""
        return atomic_get64(&self.c.published.length)

    @property
    def tokens(self):
        """The ids of the evaluated tokens, a new list."""
        return ids_list(self.c.ids, atomic_get64(&self.c.published.length))

    @property
    def pending(self):
        """The ids that the next step evaluates: those pushed, or the last sampled token; a new list."""
        cdef int64_t n_ids = atomic_get64(&self.c.published.n_ids)
        cdef int64_t length = atomic_get64(&self.c.published.length)  # after n_ids: a commit sets it before n_ids
        return ids_list(self.c.ids + length, max(0, n_ids - length))

    @property
    def nbytes(self):
        """The bytes of memory it has allocated: the KV cache, which grows by doubling, ids, logits and so on."""
        return atomic_get64(&self.c.published.size)

    def common_prefix(self, tokens):
        """Return how many of its first evaluated tokens are also the first of `tokens`.

        Args:
            tokens: ids, any iterable of integers; it is read up to the first difference.
        """
        cdef int64_t same = 0
        for token in items_of(tokens):  # meanwhile, another thread may truncate
            if same >= atomic_get64(&self.c.published.length) or token != self.c.ids[same]:
                break
            same += 1
        return min(same, atomic_get64(&self.c.published.length))

    @property
    def n_ctx(self):
        """The maximum number of tokens in a sequence: the model's number of positions."""
        return self.c.network.config.n_ctx

    @property
    def n_logits(self):
        """The number of last tokens whose logits are kept."""
        return atomic_get64(&self.c.published.n_logits)

    @property
    def logits(self):
        """The logits after the last token: a new numpy array of f32 (n_vocab,).

        They are computed again if they were not kept: after `truncate`, and after a step that sampled.

        Raises:
            UsageError: the sequence is empty, or in use by another thread.
        """
        cdef int64_t n_vocab = self.c.network.config.n_vocab
        cdef float* row = NULL
        logits = new_array((n_vocab,))
        self.take()
        try:
            if self.c.length == 0:
                raise UsageError("logits: the sequence is empty (append tokens first)")
            copy_to(logits, self.last_logits(&row), n_vocab)
        finally:
            free(row)
            self.release()
        return logits

    cdef const float* last_logits(self, float** row) except NULL:
        """Return the logits after the last token: those kept, or computed again into a new row, which the caller frees.

        The caller holds the sequence's lock; the sequence is not empty.
        """
        cdef SequenceStatus status
        cdef Engine engine
        cdef int64_t V = self.c.network.config.V
        if self.c.n_logits:
            return self.c.logits + (self.c.n_logits - 1) * V
        row[0] = <float*>malloc(<size_t>V * sizeof(float))
        if row[0] == NULL:
            raise MemoryError()
        engine = self.runtime.borrow()
        engine.prepare()
        with nogil:
            status = engine_logits_again(&engine.c, &self.c, row[0])
        engine.done()
        if status != SEQUENCE_OK:
            throw(raised(status, engine.c.raised, "sequence"))
        return row[0]

    @property
    def all_logits(self):
        """The logits after each of the last `n_logits` tokens: a new numpy array of f32 (n_logits, n_vocab).

        Raises:
            UsageError: the sequence is in use by another thread.
        """
        cdef const Config* c = &self.c.network.config
        cdef int64_t i
        self.take()
        try:
            logits = new_array((self.c.n_logits, c.n_vocab))
            for i in range(self.c.n_logits):
                copy_to(logits[i], self.c.logits + i * c.V, c.n_vocab)
        finally:
            self.release()
        return logits

    # --- tokens in and out

    cdef int check_room(self, int64_t n) except -1:
        if self.c.n_ids + n > self.c.network.config.n_ctx:
            raise ContextFullError(
                f"context: {self.c.n_ids} tokens and {n} more, but the model has"
                f" {self.c.network.config.n_ctx} positions (truncate, or start a new sequence)"
            )
        return 0

    def append(self, tokens, n_logits=1, *, trace=False):
        """Evaluate the pending tokens, then the given ones; `logits` are then those after the last token.

        Args:
            tokens: ids, any iterable of integers.
            n_logits: how many of the last evaluated tokens to keep logits for.
            trace: whether to record hidden states, outputs of heads and attention.

        Returns:
            A `Trace` of the evaluated tokens if `trace` is true, else None.

        Raises:
            ContextFullError: there are more tokens than free positions; nothing was evaluated.
            VocabularyError: an id is out of range; nothing was evaluated.
            UsageError: an argument is invalid; nothing was evaluated.
            CancelledError: `cancel` was called. As with an exception from a signal handler (KeyboardInterrupt), whole
                chunks of the tokens may have been evaluated, see `tokens`; the rest of the argument is discarded.
        """
        cdef Ids ids = Ids(tokens, self.c.network.config.n_vocab)
        cdef int64_t rows = min(whole_number("n_logits", n_logits, 0), MANY)
        cdef const Config* c = &self.c.network.config
        cdef CTrace found
        cdef Trace result = None
        cdef int64_t n
        self.take()
        try:
            self.check_room(ids.n)
            if trace:
                n = self.c.n_ids - self.c.length + ids.n
                result = new_trace(c, n, self.c.n_ids + ids.n, &found)
            self.evaluate(ids, rows, NULL, &found if trace else NULL, NULL)
        finally:
            self.release()
        return result

    cdef int evaluate(self, Ids ids, int64_t n_logits, Score* scores, CTrace* trace, double* seconds) except -1:
        """Run `engine_append`, and add each step's seconds to `seconds` unless it is NULL.

        The caller holds the sequence's lock and has checked the room.
        """
        cdef SequenceStatus status
        cdef Engine engine = self.runtime.borrow()
        engine.prepare()
        engine.c.pass_.seconds = seconds
        with nogil:
            status = engine_append(&engine.c, &self.c, ids.data, ids.n, n_logits, scores, trace)
        engine.c.pass_.seconds = NULL
        engine.done()
        if status != SEQUENCE_OK:
            throw(raised(status, engine.c.raised, "sequence"))
        return 0

    def push(self, tokens):
        """Add ids to the pending ones, for `Engine.step` to evaluate. Raises as `append`; then nothing is added."""
        cdef Ids ids = Ids(tokens, self.c.network.config.n_vocab)
        self.take()
        try:
            self.check_room(ids.n)
            sequence_push(&self.c, ids.data, ids.n)
        finally:
            self.release()

    def score(self, tokens):
        """Evaluate tokens, and return the log probability of each one given all tokens before it.

        Returns:
            A list of floats (natural logarithm), one for each of `tokens`; the first is None if the sequence was empty.

        Raises:
            As `append`.
        """
        cdef Ids ids = Ids(tokens, self.c.network.config.n_vocab)
        cdef const Config* c = &self.c.network.config
        cdef Score* scores = NULL
        cdef float* row = NULL
        cdef int64_t n_pending, i
        cdef list found
        self.take()
        try:
            self.check_room(ids.n)
            n_pending = self.c.n_ids - self.c.length
            if ids.n == 0:
                return []
            first = None
            if n_pending == 0 and self.c.length:
                first = token_logprob(self.last_logits(&row), c.n_vocab, ids.data[0])
            scores = <Score*>malloc(<size_t>(n_pending + ids.n) * sizeof(Score))
            if scores == NULL:
                raise MemoryError()
            self.evaluate(ids, 0, scores, NULL, NULL)
            if n_pending:
                first = scores[n_pending - 1].logprob
            found = [first]
            for i in range(ids.n - 1):
                found.append(scores[n_pending + i].logprob)
            return found
        finally:
            free(scores)
            free(row)
            self.release()

    def next_logprob(self, token):
        """Return the log probability (natural logarithm) of a token after the last evaluated one.

        Nothing changes, and no position is needed. NaN if the logits are not finite.

        Raises:
            UsageError: the sequence is empty, or in use by another thread. VocabularyError: the id is out of range.
        """
        cdef Ids ids = Ids((token,), self.c.network.config.n_vocab)
        cdef float* row = NULL
        self.take()
        try:
            if self.c.length == 0:
                raise UsageError("next_logprob: the sequence is empty (append tokens first)")
            return token_logprob(self.last_logits(&row), self.c.network.config.n_vocab, ids.data[0])
        finally:
            free(row)
            self.release()

    cdef int check_length(self, int64_t length) except -1:
        if length > self.c.length:
            raise UsageError(f"length: got {length}, expected at most {self.c.length}, the length of the sequence")
        return 0

    def truncate(self, length):
        """Keep the first `length` evaluated tokens and drop the others, including pending ones.

        Raises:
            UsageError: the sequence is shorter, or in use by another thread.
        """
        cdef int64_t wanted = min(whole_number("length", length, 0), MANY)
        self.take()
        try:
            self.check_length(wanted)
            sequence_truncate(&self.c, wanted)
        finally:
            self.release()

    def fork(self, length=None):
        """Return an independent copy with the same tokens, logits and sampler state; the KV cache is copied.

        Args:
            length: copy only the first `length` evaluated tokens, and no pending ones; None for all. The sampler state
                is copied as it is.

        Raises:
            UsageError: the sequence is shorter, or in use by another thread.
        """
        cdef Sequence copy
        cdef Copied copied = Copied.__new__(Copied)
        cdef int64_t wanted = -1 if length is None else min(whole_number("length", length, 0), MANY)
        cdef int64_t n_ids
        self.take()
        try:
            self.check_length(wanted)
            n_ids = self.c.n_ids if wanted < 0 else wanted
            wanted = self.c.length if wanted < 0 else wanted
            copied.source, copied.length, copied.n_ids = self, wanted, n_ids
            copy = Sequence(self.model, _copied=copied)
            copy.params, copy.last_seed = self.params, self.last_seed
            return copy
        finally:
            self.release()

    def cancel(self):
        """Stop the call that is using this sequence, after the current layer; it raises CancelledError.

        This can be called from any thread. If nothing is running, the next call or step stops at once.
        """
        atomic_set(&self.c.cancelled, 1)

    # --- sampling

    @property
    def sampling(self):
        """The `SamplingParams` used by steps; None if they do not sample."""
        return self.params

    @property
    def seed(self):
        """The seed of the random generator; None before `set_sampling`."""
        return self.last_seed

    @property
    def history(self):
        """The ids that penalties apply to: those given to `set_sampling`, then the sampled ones; a new list.

        Raises:
            UsageError: the sequence is in use by another thread.
        """
        self.take()
        try:
            return ids_list(self.c.sampler.history, self.c.sampler.n_history)
        finally:
            self.release()

    def set_sampling(self, params, *, seed=None, history=None, exempt=None, stop_tokens=None, logprobs=None,
                     logit_bias=None, prompt_logprobs=None):
        """Set how `Engine.step` chooses the next token once nothing is pending.

        Args:
            params: a `SamplingParams`; None to evaluate pending tokens only.
            seed: of the random generator, 0 to 2^64 - 1; None keeps the generator's state (the first time, a seed is
                taken from the system, see `seed`).
            history: ids that penalties apply to, besides those sampled from now on; None keeps the current ones.
            exempt: ids that are never penalized; None keeps the current ones.
            stop_tokens: at most 16 ids that end a text, so that guesses after them are ignored; None keeps the current
                ones.
            logprobs: how many of the most likely tokens to report at each position, 0 to 32; 0 reports only the sampled
                token's log probability; None reports nothing.
            logit_bias: {id: number from -100 to 100}, added to the logits before everything else; {} for none, None
                keeps the current ones. Reported log probabilities are the model's own.
            prompt_logprobs: how many of the most likely tokens to record at each position that steps evaluate, 0 to 32;
                0 records only the log probability of the token there; None records nothing. See `prompt_logprobs`.

        Returns:
            The seed of the generator.

        Raises:
            UsageError, VocabularyError: an argument is invalid; nothing has changed.
        """
        cdef SequenceSampler sampler
        cdef int64_t n_vocab = self.c.network.config.n_vocab
        cdef Ids new_history = None if history is None else Ids(history, n_vocab)
        cdef Ids new_exempt = None if exempt is None else Ids(exempt, n_vocab)
        cdef Ids new_stop = None if stop_tokens is None else Ids(stop_tokens, n_vocab)
        cdef LogitBiases new_bias = None if logit_bias is None else LogitBiases(logit_bias, n_vocab)
        if new_exempt is not None:
            new_exempt = Ids(sorted(set(ids_list(new_exempt.data, new_exempt.n))), n_vocab)
        if not (params is None or isinstance(params, SamplingParams)):
            raise UsageError(f"params: got {params!r:.80}, expected a SamplingParams or None")
        if new_stop is not None and new_stop.n > MAX_STOP_TOKENS:
            raise UsageError(f"stop_tokens: got {new_stop.n} ids, expected at most {MAX_STOP_TOKENS}")
        cdef int n_logprobs = number_of_logprobs("logprobs", logprobs, n_vocab)
        cdef int n_prompt_logprobs = number_of_logprobs("prompt_logprobs", prompt_logprobs, n_vocab)
        if seed is None and self.last_seed is None:
            seed = new_seed()
        if seed is not None:
            seed = whole_number("seed", seed, 0, (1 << 64) - 1)
        self.take()
        try:
            sampler = self.c.sampler
            if params is not None:
                sampler.options = options_of(params)
            if seed is not None:
                random_seed(&sampler.random, seed)
            # From here on, nothing can fail.
            if new_history is not None:
                sampler.n_history = sampler.history_capacity = new_history.n
                sampler.history = new_history.release()
            if new_exempt is not None:
                sampler.n_exempt = new_exempt.n
                sampler.exempt = new_exempt.release()
            if new_bias is not None:
                sampler.n_bias = new_bias.n
                sampler.bias = new_bias.release()
            if new_stop is not None:
                sampler.n_stop = <int>new_stop.n
                memcpy(sampler.stop, new_stop.data, <size_t>new_stop.n * sizeof(int32_t))
            sampler.n_logprobs, sampler.n_prompt_logprobs = n_logprobs, n_prompt_logprobs
            sequence_configure(&self.c, &sampler, params is not None)
            self.params = params
            if seed is not None:
                self.last_seed = seed
            return self.last_seed
        finally:
            self.release()

    @property
    def prompt_logprobs(self):
        """The log probability of each evaluated token given all tokens before it, as `score` returns it: a new list.

        Recorded by steps while `set_sampling(prompt_logprobs=...)` is in effect, also for sampled tokens; None for the
        first token, and for tokens evaluated by `append` or `score`, or by a step without it.

        Raises:
            UsageError: the sequence is in use by another thread.
        """
        cdef list found = []
        cdef int64_t i
        self.take()
        try:
            for i in range(self.c.length):
                found.append(self.c.scores[i].logprob if self.is_scored(i, 0) else None)
            return found
        finally:
            self.release()

    @property
    def prompt_top_logprobs(self):
        """The most likely tokens at each evaluated position: a new list of lists of (id, log probability), descending.

        None instead of a list where `prompt_logprobs` is None, or was recorded without any of the most likely tokens.

        Raises:
            UsageError: the sequence is in use by another thread.
        """
        cdef list found = []
        cdef int64_t i
        self.take()
        try:
            for i in range(self.c.length):
                found.append(top_of(&self.c.scores[i], self.c.scores[i].n_top) if self.is_scored(i, 1) else None)
            return found
        finally:
            self.release()

    cdef bint is_scored(self, int64_t i, int n_top) noexcept:
        """Return whether the log probability at position i is recorded, with at least n_top of the most likely."""
        return i < self.c.n_scores and self.c.scores[i].n_top >= n_top

    def guess(self, tokens):
        """Propose tokens to follow the pending one; the next step checks them in the same pass and keeps correct ones.

        Args:
            tokens: ids, at most 7; those beyond the end of the context are ignored. They do not change what is sampled.

        Raises:
            UsageError, VocabularyError: an argument is invalid.
        """
        cdef Ids ids = Ids(tokens, self.c.network.config.n_vocab)
        if ids.n > MAX_GUESSES:
            raise UsageError(f"guess: got {ids.n} tokens, expected at most {MAX_GUESSES}")
        self.take()
        try:
            memcpy(self.c.guesses, ids.data, <size_t>ids.n * sizeof(int32_t))
            self.c.n_guesses = <int>ids.n
        finally:
            self.release()

    def retract(self, n):
        """Undo the last n tokens sampled by the last step: ids, KV cache and random generator.

        Raises:
            UsageError: the last change of the sequence was not a step that sampled at least n tokens.
        """
        cdef int64_t wanted = min(whole_number("retract", n, 0), MANY)
        self.take()
        try:
            if wanted > self.c.sampled.n:
                raise UsageError(f"retract: got {wanted} tokens, but the last step sampled {self.c.sampled.n}")
            sequence_retract(&self.c, <int>wanted)
        finally:
            self.release()


cdef int throw(exception) except -1:
    """Raise the exception; None stands for a signal handler's, which is already set."""
    if exception is None:
        return raise_pending()
    raise exception


# --- numpy arrays --------------------------------------------------------------------------------------------------


cdef object new_array(tuple shape):
    """Return an f32 array of zeros."""
    import numpy
    return numpy.zeros(shape, numpy.float32)


cdef float* data_of(array) except? NULL:
    """Return a pointer to an array's values; the array must outlive its use."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    cdef float* data = <float*>view.buf
    PyBuffer_Release(&view)
    return data


cdef int copy_to(array, const float* values, int64_t n) except -1:
    memcpy(data_of(array), values, <size_t>n * sizeof(float))
    return 0


# --- the engine ----------------------------------------------------------------------------------------------------


@cython.final
cdef class Event:
    """The result of a step for one sequence that sampled, or failed to.

    Attributes:
        sequence: the `Sequence`.
        tokens: the sampled ids, a list: one, or several if guesses were correct; empty on an error.
        logprobs: the log probability of each, a list; None unless requested.
        top_logprobs: for each, the most likely tokens, a list of (id, log probability), descending; None unless
            requested.
        error: None, or the exception that says why nothing was sampled; the sequence is then unchanged.
    """

    cdef readonly Sequence sequence
    cdef readonly list tokens
    cdef readonly list logprobs
    cdef readonly list top_logprobs
    cdef readonly object error

    def __repr__(self):
        return f"<gpt2rt.Event tokens={self.tokens} error={self.error!r}>"


cdef Event event_of(Sequence sequence):
    cdef Event event = Event.__new__(Event)
    cdef CSequence* s = &sequence.c
    cdef int n_top = s.sampler.n_logprobs
    event.sequence = sequence
    event.tokens = ids_list(s.sampled.ids, s.n_new)
    cdef int i
    if n_top >= 0:
        event.logprobs = []
        for i in range(s.n_new):
            event.logprobs.append(s.sampled.scores[i].logprob)
    if n_top > 0:
        event.top_logprobs = []
        for i in range(s.n_new):
            event.top_logprobs.append(top_of(&s.sampled.scores[i], n_top))
    if s.status != SEQUENCE_OK:
        event.error = raised(s.status, False, "sequence")
    return event


@cython.final
cdef class Engine:
    """Advances many sequences of a model together: one forward pass per step, which reads the weights once for all.

    Only one thread may use an engine at a time; several engines of a model can run concurrently.
    """

    cdef CEngine c
    cdef readonly Runtime runtime
    cdef Engine next_idle

    def __cinit__(self, model):
        """
        Args:
            model: a `Model`.
        """
        self.runtime = runtime_of(model)
        if not engine_open(&self.c, &self.runtime.weights.network, self.runtime.n_threads):
            raise MemoryError()

    def __dealloc__(self):
        engine_free(&self.c)

    cdef int prepare(self) except -1:
        """Get ready for a forward pass on this thread."""
        self.c.pool = self.runtime.threads()
        self.c.check = NULL
        if is_main_thread():
            self.c.check = run_signal_handlers
        return 0

    cdef void done(self) noexcept:
        """Return a borrowed engine after a forward pass."""
        self.runtime.give_back(self)

    def step(self, sequences):
        """Advance sequences by one forward pass: a token for each that is decoding, and chunks of pending prompts.

        A sequence whose pending tokens are all evaluated samples its next token, if it is set to; that token is then
        pending. The tokens of a sequence do not depend on the other sequences.

        Args:
            sequences: distinct `Sequence`s of this engine's model; each step may have different ones.

        Returns:
            A list of `Event`, one for each sequence that sampled or has an error.

        Raises:
            UsageError: an argument is invalid, or a sequence is in use.
            CancelledError: `cancel` was called.
            MemoryError, or an exception from a signal handler (KeyboardInterrupt). After any exception, all sequences
                are as they were before the step.
        """
        cdef list batch = sequences_of(sequences), events = []
        cdef int64_t n = len(batch), n_taken = 0, i
        cdef Sequence sequence
        cdef SequenceStatus status
        cdef CSequence** pointers = <CSequence**>malloc(<size_t>max(1, n) * sizeof(void*))
        cdef LockResult lock
        if pointers == NULL:
            raise MemoryError()
        try:
            lock = lock_take(&self.c.lock)
            if lock == LOCK_TORN:
                raise UsageError("engine: the process was forked while the engine was being set up (create a new one)")
            if lock == LOCK_IN_USE:
                raise UsageError("engine: already in use by another thread (create one for each thread)")
            try:
                for item in batch:
                    if not isinstance(item, Sequence):
                        raise UsageError(f"step: got {item!r:.80}, expected sequences")
                    sequence = item
                    if sequence.runtime is not self.runtime:
                        raise UsageError("step: a sequence belongs to another model, expected this engine's model")
                    sequence.take()
                    pointers[n_taken] = &sequence.c
                    n_taken += 1
                self.prepare()
                with nogil:
                    status = engine_step(&self.c, pointers, n)
                if status != SEQUENCE_OK:
                    throw(raised(status, self.c.raised, "engine"))
                for item in batch:
                    if is_news(item):
                        events.append(event_of(item))
                return events
            finally:
                for i in range(n_taken):
                    lock_release(&pointers[i].lock)
                lock_release(&self.c.lock)
        finally:
            free(pointers)

    def cancel(self):
        """Stop the running step after the current layer, from any thread; if none is running, stop the next one."""
        atomic_set(&self.c.cancelled, 1)


def step_together(sequences):
    """Run `Engine.step` on a non-empty list of sequences, with an idle engine of their model."""
    cdef Sequence first = sequences[0]
    cdef Engine engine
    if first is None:
        raise UsageError("step: got None, expected sequences")
    engine = first.runtime.borrow()
    try:
        return engine.step(sequences)
    finally:
        engine.done()


cdef list sequences_of(items):
    """Return the items of a step as a list; their types are checked later."""
    try:
        return list(items)
    except TypeError:
        raise UsageError(f"step: got {items!r:.80}, expected sequences") from None


cdef bint is_news(Sequence sequence):
    return sequence.c.n_new > 0 or sequence.c.status != SEQUENCE_OK


def profile(Sequence sequence not None, tokens):
    """Append tokens and measure how long each step of the forward pass takes.

    Returns:
        {step of the forward pass: seconds}; a step is named after its matrix, and includes the quantization of its
        inputs and the wait for the other threads.
    """
    cdef Ids ids = Ids(tokens, sequence.c.network.config.n_vocab)
    cdef double seconds[16]
    memset(seconds, 0, sizeof(seconds))
    sequence.take()
    try:
        sequence.check_room(ids.n)
        sequence.evaluate(ids, 1, NULL, NULL, seconds)
    finally:
        sequence.release()
    names = ("embedding", "attn.c_attn", "attention", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_f and head")
    return {name: seconds[i] for i, name in enumerate(names)}


# --- looking inside --------------------------------------------------------------------------------------------------


def run_ablated(model, tokens, bytes ablated not None, *, trace=True):
    """Evaluate a text without some heads and layers.

    The keys and values of such a pass are no use to others, so its sequence is not returned.

    Args:
        model: a `Model`.
        tokens: ids, at least one and at most n_ctx.
        ablated: (n_layer, n_head + 1) bytes: 1 for heads whose output is to be 0, and last in a row for layers that are
            to be skipped.
        trace: whether to record a trace.

    Returns:
        (a `Trace` or None, the logits after the last token: numpy array of f32 (n_vocab,)).

    Raises:
        As `Sequence.append`.
    """
    cdef Sequence sequence = Sequence(model)
    cdef const Config* c = &sequence.c.network.config
    cdef Ids ids = Ids(tokens, c.n_vocab)
    cdef CTrace found
    cdef Trace result = None
    if len(ablated) != c.n_layer * (c.n_head + 1):
        raise ValueError(f"ablated: got {len(ablated)} bytes, expected {c.n_layer * (c.n_head + 1)}")
    sequence.check_room(ids.n)
    memset(&found, 0, sizeof(found))
    found.n_rows = found.n_positions = ids.n
    if trace:
        result = new_trace(c, ids.n, ids.n, &found)
    found.ablated = ablated
    sequence.take()
    try:
        sequence.evaluate(ids, 1, NULL, &found, NULL)
    finally:
        sequence.release()
    logits = new_array((c.n_vocab,))
    if ids.n:
        copy_to(logits, sequence.c.logits, c.n_vocab)
    return result, logits


def logit_lens(model, hidden, targets, n_top):
    """Apply the final layer norm and the output head to rows of the residual stream.

    Args:
        model: a `Model`.
        hidden: contiguous numpy array of f32 (n, n_embd), as in `Trace.hidden`.
        targets: n ids.
        n_top: how many of the most likely tokens to find, 0 to 32.

    Returns:
        A list of (log probability of the target, its rank, most likely tokens), one for each row: the rank of the most
        likely token is 0; the most likely tokens are a list of (id, log probability), descending. The values of a row
        after the last layer are those of the model's own logits, bit for bit.

    Raises:
        UsageError, VocabularyError: an argument is invalid. Gpt2rtError: logits are not finite.
    """
    cdef Runtime runtime = runtime_of(model)
    cdef const Config* c = &runtime.weights.network.config
    cdef Ids ids = Ids(targets, c.n_vocab)
    cdef int top = number_of_logprobs("n_top", n_top, c.n_vocab)
    cdef Score* scores = <Score*>malloc(<size_t>max(1, ids.n) * sizeof(Score))
    cdef int64_t* ranks = <int64_t*>malloc(<size_t>max(1, ids.n) * sizeof(int64_t))
    cdef Engine engine = None
    cdef SequenceStatus status
    cdef Lens lens
    cdef Py_buffer view
    cdef list found = []
    cdef int64_t i
    try:
        if scores == NULL or ranks == NULL:
            raise MemoryError()
        PyObject_GetBuffer(hidden, &view, PyBUF_SIMPLE)
        try:
            if view.len != ids.n * c.n_embd * <int64_t>sizeof(float):
                raise UsageError(f"hidden: got {view.len} bytes, expected f32 ({ids.n}, {c.n_embd})")
            engine = runtime.borrow()
            engine.prepare()
            lens = Lens(&engine.c, <const float*>view.buf, ids.data, ids.n, top, scores, ranks)
            with nogil:
                status = lens_run(lens)
            engine.done()
        finally:
            PyBuffer_Release(&view)
        if status != SEQUENCE_OK:
            throw(raised(status, engine.c.raised, "logit_lens"))
        for i in range(ids.n):
            if scores[i].logprob != scores[i].logprob:
                throw(raised(SEQUENCE_NOT_FINITE, False, "logit_lens"))
        for i in range(ids.n):
            found.append((scores[i].logprob, ranks[i], top_of(&scores[i], scores[i].n_top)))
        return found
    finally:
        free(scores)
        free(ranks)
