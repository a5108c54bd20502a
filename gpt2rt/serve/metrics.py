"""Metrics: what the server counts. No text, no prompt and no client is in it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each of some limits, as Prometheus wants them."""

    def __init__(self, limits: Iterable[float]):
        self._limits = tuple(limits)
        self._counts = [0] * (len(self._limits) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (limit, how many values were at most that) for each limit, the last one infinite."""
        found, total = [], 0.0
        for limit, count in zip((*map(str, self._limits), "+Inf"), self._counts, strict=True):
            total += count
            found.append((limit, total))
        return found


class Metrics:
    """Counted by the scheduler's thread and by the event loop, each its own fields; read by /metrics.

    Attributes:
        prompt_tokens: tokens of prompts. cached_tokens: those of them that were not evaluated again.
        generated_tokens: sampled tokens. n_waiting, n_running: texts. n_kept: sequences whose beginnings can be reused.
        kv_cache_bytes: of KV cache, reserved or kept. step_seconds: time spent in forward passes.
        first_token: seconds from a request's arrival to its first piece of text. batch_size: texts of a step.
        requests: {(path, status): how many}.
        mean_text_seconds: from a request's arrival to the end of a text, a moving average.
    """

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.n_waiting = self.n_running = self.n_kept = self.kv_cache_bytes = 0
        self.step_seconds = 0.0
        self.first_token, self.batch_size = Histogram(SECONDS), Histogram(SIZES)
        self.requests: Counter[tuple[str, int]] = Counter()
        self.mean_text_seconds = 1.0

    def step(self, n_texts: int, n_tokens: int, seconds: float) -> None:
        """Count a forward pass."""
        self.batch_size.observe(n_texts)
        self.generated_tokens += n_tokens
        self.step_seconds += seconds

    def text_ended(self, seconds: float) -> None:
        self.mean_text_seconds += (seconds - self.mean_text_seconds) / 16

    def collect(self) -> Iterator[Metric]:
        """Yield what prometheus-client writes; it is imported when it is first asked for."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("gpt2rt_requests", "Answered requests.", labels=["path", "status"])
        for (path, status), count in sorted(self.requests.items()):
            requests.add_metric([path, str(status)], count)
        yield requests
        counters = (
            ("gpt2rt_prompt_tokens", "Tokens of prompts.", self.prompt_tokens),
            ("gpt2rt_cached_prompt_tokens", "Tokens of prompts that were not evaluated again.", self.cached_tokens),
            ("gpt2rt_generated_tokens", "Sampled tokens; their rate is the speed.", self.generated_tokens),
            ("gpt2rt_step_seconds", "Time spent in forward passes.", self.step_seconds),
        )
        for name, meaning, value in counters:
            yield CounterMetricFamily(name, meaning, value)
        gauges = (
            ("gpt2rt_waiting_texts", "Texts that wait.", self.n_waiting),
            ("gpt2rt_running_texts", "Texts that are being generated.", self.n_running),
            ("gpt2rt_kept_sequences", "Ended sequences whose first tokens can be reused.", self.n_kept),
            ("gpt2rt_kv_cache_bytes", "Bytes of KV cache, reserved by running texts or kept.", self.kv_cache_bytes),
        )
        for name, meaning, value in gauges:
            yield GaugeMetricFamily(name, meaning, value)
        for name, meaning, histogram in (
            ("gpt2rt_time_to_first_token_seconds", "From a request's arrival to its first text.", self.first_token),
            ("gpt2rt_batch_size", "Texts of a forward pass.", self.batch_size),
        ):
            yield HistogramMetricFamily(name, meaning, histogram.buckets(), histogram.sum)

    def text(self) -> bytes:
        """Return the metrics in the format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)
