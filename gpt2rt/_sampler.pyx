# cython: language_level=3, freethreading_compatible=True
"""Sampler: chooses the next token from logits, the same one on every machine; implemented in core/sampler.h."""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int32_t, int64_t

from gpt2rt.errors import Gpt2rtError, UsageError, VocabularyError

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int* overflow) except? -1

cdef extern from "sampler.h" nogil:
    enum:
        SAMPLE_OK, SAMPLE_NOT_FINITE
    ctypedef struct Candidate:
        int64_t rank
        double weight
    ctypedef struct SamplerScratch:
        int64_t n_vocab
        Candidate* pool
    ctypedef struct SamplerInput:
        SamplingOptions options
        const LogitBias* bias
        int64_t n_bias
        const int32_t* history
        int64_t n_history
        const int32_t* exempt
        int64_t n_exempt
    int sampler_scratch_new(SamplerScratch* scratch, int64_t n_vocab)
    void sampler_scratch_free(SamplerScratch* scratch)
    int sampler_choose(SamplerScratch* scratch, const float* logits, const SamplerInput* input, int64_t* count)
    int sampler_sample(SamplerScratch* scratch, const float* logits, const SamplerInput* input, Random* random,
                       int32_t* token)
    void candidates_sort(Candidate* c, int64_t n)
    int32_t rank_token(int64_t rank)
    double random_unit(Random* random)
    double exp_negative(double x)

cdef extern from "logprobs.h" nogil:
    ctypedef struct LogSoftmax:
        pass
    int log_softmax_new(LogSoftmax* softmax, const float* logits, int64_t n)
    double log_softmax(const LogSoftmax* softmax, double logit)
    int top_logprobs(SamplerScratch* scratch, const float* logits, int64_t k, int32_t* ids, double* logprobs)


cdef int check(int status) except -1:
    if status == SAMPLE_NOT_FINITE:
        raise Gpt2rtError("logits are not finite: the weights are damaged or untrained (run gpt2rt verify)")
    if status != SAMPLE_OK:
        raise Gpt2rtError("all tokens are forbidden (no_repeat_ngram_size is too small for this vocabulary)")
    return 0


cdef bytes ids_of(ids, int64_t n_vocab):
    """Return the ids as int32_t, after checking all of them.

    This may run code of the caller's objects, so it works on a copy, before any sampler state is used.
    """
    cdef tuple copied = tuple(ids)
    cdef bytes found = PyBytes_FromStringAndSize(NULL, len(copied) * <Py_ssize_t>sizeof(int32_t))
    cdef int32_t* to = <int32_t*>PyBytes_AsString(found)
    cdef Py_ssize_t i = 0
    cdef int64_t number
    cdef int overflow
    for token in copied:
        number = PyLong_AsLongLongAndOverflow(PyNumber_Index(token), &overflow)
        if overflow or not 0 <= number < n_vocab:
            raise VocabularyError(f"token {token}: out of range, expected 0 to {n_vocab - 1}")
        to[i] = <int32_t>number
        i += 1
    return found


cdef bytes logits_of(logits):
    """Return the logits as bytes of f32: the same object if it is bytes, else a copy."""
    cdef Py_buffer view
    PyObject_GetBuffer(logits, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    try:
        code = (<bytes>view.format).decode() if view.format != NULL else "B"
        if code not in ("f", "<f", "=f", "@f", "B", "c") or view.len % 4 or view.len == 0:
            raise UsageError(f"logits: got {view.len} bytes of {code!r}, expected f32 (n_vocab,)")
        return logits if type(logits) is bytes else PyBytes_FromStringAndSize(<const char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef const float* floats_in(bytes content) except NULL:
    return <const float*>PyBytes_AsString(content)


cdef const int32_t* ids_in(bytes content) except NULL:
    return <const int32_t*>PyBytes_AsString(content)


@cython.final
cdef class Sampler:
    """Chooses tokens according to `params`; the random numbers depend only on `seed`.

    The filters apply in the usual order, so that settings can be carried over from other programs: penalties and
    forbidden tokens first, since they correct the model's logits; then temperature, so that top_p and min_p cut the
    distribution that is sampled from; then top_k, top_p of what top_k keeps, and min_p. The most likely token is always
    kept.

    Attributes:
        params: the `SamplingParams`.
        seed: 0 to 2^64 - 1.
    """

    cdef readonly object params
    cdef readonly object seed
    cdef bytes exempt            # int32_t, ascending
    cdef SamplingOptions options
    cdef Random random
    cdef SamplerScratch scratch  # of the last vocabulary

    def __cinit__(self, params, seed, exempt=()):
        """
        Args:
            params: a `SamplingParams`.
            seed: 0 to 2^64 - 1.
            exempt: ids that are neither penalized nor forbidden as repetitions, such as the newline.

        Raises:
            UsageError: the seed is out of range.
            VocabularyError: an exempt id is negative or above 2^31 - 1.
        """
        try:
            number = -1 if isinstance(seed, bool) else PyNumber_Index(seed)
        except TypeError:
            number = -1
        if not 0 <= number < 1 << 64:
            raise UsageError(f"seed: got {seed!r}, expected a whole number from 0 to {(1 << 64) - 1}")
        self.seed, self.exempt = number, ids_of(sorted(exempt), 1 << 31)
        random_seed(&self.random, number)
        self.use(params)

    def __dealloc__(self):
        sampler_scratch_free(&self.scratch)

    def use(self, params):
        """Continue with other parameters and the same random generator."""
        cdef SamplingOptions options = options_of(params)
        with cython.critical_section(self):
            self.params, self.options = params, options

    cdef bytes recent(self, history, int64_t n_vocab, SamplingOptions* options):
        """Return the ids of the history that the options refer to. OUT options: the sampler's options."""
        with cython.critical_section(self):
            options[0] = self.options
        if options.no_repeat_ngram_size > 0 or options.presence_penalty != 0 or options.frequency_penalty != 0:
            return ids_of(history, n_vocab)
        if options.repetition_penalty == 1 or options.repeat_last_n <= 0:
            return b""
        copied = tuple(history)
        return ids_of(copied[max(0, len(copied) - options.repeat_last_n):], n_vocab)

    cdef SamplerInput input_of(self, SamplingOptions options, bytes ids):
        return SamplerInput(options, NULL, 0, ids_in(ids), len(ids) // 4, ids_in(self.exempt), len(self.exempt) // 4)

    cdef int reserve(self, int64_t n_vocab) except -1:
        if self.scratch.n_vocab != n_vocab:
            sampler_scratch_free(&self.scratch)
            if not sampler_scratch_new(&self.scratch, n_vocab):
                raise MemoryError()
        return 0

    def sample(self, logits, history=()):
        """Return the next token.

        Args:
            logits: buffer of f32 (n_vocab,), or of its bytes; -inf forbids a token. Not changed.
            history: the ids generated so far, oldest first; repetition_penalty uses the last repeat_last_n of them,
                the other penalties and no_repeat_ngram_size all of them.

        Raises:
            Gpt2rtError: a logit is NaN or +inf, or all tokens are forbidden.
            VocabularyError: an id is out of range.
        """
        cdef SamplingOptions options
        cdef int32_t token = 0
        cdef int status
        cdef bytes content = logits_of(logits)
        cdef bytes ids = self.recent(history, len(content) // 4, &options)
        cdef SamplerInput input = self.input_of(options, ids)
        with cython.critical_section(self):
            self.reserve(len(content) // 4)
            status = sampler_sample(&self.scratch, floats_in(content), &input, &self.random, &token)
        check(status)
        return token

    def candidates(self, logits, history=()):
        """Return the tokens that `sample` chooses from: a list of (id, probability), most likely first. Args: as there.
        """
        cdef SamplingOptions options
        cdef int64_t count
        cdef int status
        cdef bytes found, content = logits_of(logits)
        cdef bytes ids = self.recent(history, len(content) // 4, &options)
        cdef SamplerInput input = self.input_of(options, ids)
        cdef const Candidate* c
        with cython.critical_section(self):
            self.reserve(len(content) // 4)
            status = sampler_choose(&self.scratch, floats_in(content), &input, &count)
            candidates_sort(self.scratch.pool, count)
            # A copy, because creating Python objects may run other code, which may use the sampler.
            found = PyBytes_FromStringAndSize(<const char*>self.scratch.pool, count * <Py_ssize_t>sizeof(Candidate))
        check(status)
        c = <const Candidate*>PyBytes_AsString(found)
        return probabilities(c, count)

    def choose(self, logits, history=()):
        """Sample as `sample` does, and report how. Args: as there.

        Returns:
            (token, number, candidates): the number in [0, 1) that chose the token, None if there was no choice; and the
            tokens that could be sampled, a list of (id, probability) in the order in which the number runs through
            them: the token is the first one where the sum of the probabilities exceeds the number.
        """
        cdef SamplingOptions options
        cdef int32_t token = 0
        cdef int64_t count
        cdef double number = 0.0
        cdef int status
        cdef Random before
        cdef bytes found = b"", content = logits_of(logits)
        cdef bytes ids = self.recent(history, len(content) // 4, &options)
        cdef SamplerInput input = self.input_of(options, ids)
        cdef const Candidate* c
        with cython.critical_section(self):
            self.reserve(len(content) // 4)
            status = sampler_choose(&self.scratch, floats_in(content), &input, &count)
            if status == SAMPLE_OK:
                found = PyBytes_FromStringAndSize(<const char*>self.scratch.pool, count * <Py_ssize_t>sizeof(Candidate))
                before = self.random
                number = random_unit(&before)
                status = sampler_sample(&self.scratch, floats_in(content), &input, &self.random, &token)
        check(status)
        c = <const Candidate*>PyBytes_AsString(found)
        return token, number if count > 1 else None, probabilities(c, count)


cdef list probabilities(const Candidate* c, int64_t count):
    """Return (id, probability) of each candidate."""
    cdef list found = []
    cdef double total = 0.0
    cdef int64_t i
    for i in range(count):
        total += c[i].weight
    for i in range(count):
        found.append((rank_token(c[i].rank), c[i].weight / total))
    return found


def log_probabilities(logits, ids):
    """Return the log probabilities (natural logarithm) of some tokens, a list; the same bits on every machine.

    Args:
        logits: as for `Sampler.sample`.
        ids: token ids.

    Raises:
        Gpt2rtError: a logit is NaN or +inf, or all are -inf.
        VocabularyError: an id is out of range.
    """
    cdef LogSoftmax softmax
    cdef Py_ssize_t i
    cdef bytes content = logits_of(logits)
    cdef bytes tokens = ids_of(ids, len(content) // 4)
    check(log_softmax_new(&softmax, floats_in(content), len(content) // 4))
    cdef list found = []
    for i in range(len(tokens) // 4):
        found.append(log_softmax(&softmax, floats_in(content)[ids_in(tokens)[i]]))
    return found


def most_likely(logits, k):
    """Return the k most likely tokens: a list of (id, log probability), descending, the lower id first among equals.

    Args:
        logits: as for `Sampler.sample`.
        k: 1 to n_vocab.

    Raises:
        Gpt2rtError: a logit is NaN or +inf, or all are -inf.
        UsageError: k is out of range.
    """
    cdef SamplerScratch scratch
    cdef int status
    cdef bytes content = logits_of(logits)
    cdef int64_t n_vocab = len(content) // 4, count, i
    cdef int overflow
    count = PyLong_AsLongLongAndOverflow(PyNumber_Index(k), &overflow)
    if isinstance(k, bool) or overflow or not 1 <= count <= n_vocab:
        raise UsageError(f"k: got {k!r}, expected a whole number from 1 to {n_vocab}")
    cdef bytes ids = PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(int32_t))
    cdef bytes logprobs = PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(double))
    cdef double* found = <double*>PyBytes_AsString(logprobs)
    if not sampler_scratch_new(&scratch, n_vocab):
        raise MemoryError()
    status = top_logprobs(&scratch, floats_in(content), count, <int32_t*>PyBytes_AsString(ids), found)
    sampler_scratch_free(&scratch)
    check(status)
    cdef list top = []
    for i in range(count):
        top.append((ids_in(ids)[i], found[i]))
    return top


def exp_of(double x):
    """Return the sampler's own e^x, for x <= 0."""
    if not x <= 0:
        raise UsageError(f"exp_of: got {x}, expected at most 0")
    return exp_negative(x)
