"""Prometheus metrics, named as vLLM names its own, under `slowwave_`. No tenant labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from consolidation.journal import Tally
from memory.alarms import Alarm
from models.engine import EngineStats
from models.generation import Timings

_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_PER_TOKEN = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class _EngineGauges(Collector):
    """Reads the engine when it is asked, so a gauge is never stale."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self._stats()
        yield GaugeMetricFamily("slowwave_num_requests_running", "Replies being written.", stats.running)
        yield GaugeMetricFamily("slowwave_num_requests_waiting", "Requests in line.", stats.waiting)
        used = stats.state_bytes / stats.state_bytes_limit
        yield GaugeMetricFamily("slowwave_kv_cache_usage_perc", "KV cache in use, 1 is all of it.", used)
        drafts = "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens"
        yield CounterMetricFamily(f"slowwave_{drafts[0]}", "Tokens drafted ahead of replies.", stats.drafted)
        yield CounterMetricFamily(f"slowwave_{drafts[1]}", "Drafts that were what came.", stats.drafted_right)


class _MemoryAlarms(Collector):
    """1 for each alarm of the salience scorer that sounds."""

    def __init__(self, sounding: Callable[[], Sequence[Alarm]]) -> None:
        self._sounding = sounding

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "slowwave_memory_alarm", "The salience scorer's alarms that sound.", labels=["dimension", "kind"]
        )
        for alarm in self._sounding():
            gauge.add_metric([alarm.dimension, alarm.kind], 1)
        yield gauge


class _House(Collector):
    """What lies on the disk: nights, and the database's log."""

    def __init__(self, nights: Callable[[], Tally], log_bytes: Callable[[], int], rows: Callable[[], int]) -> None:
        self._nights, self._log_bytes, self._rows = nights, log_bytes, rows

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        nights = self._nights()
        ended = CounterMetricFamily("slowwave_sleep_runs", "Nights that ended, by how.", labels=["outcome"])
        for outcome, n in nights.by_outcome.items():
            ended.add_metric([outcome], n)
        yield ended
        if nights.promoted_at is not None:
            told = "When a night was promoted last, in seconds since 1970."
            yield GaugeMetricFamily("slowwave_sleep_promoted_timestamp_seconds", told, nights.promoted_at.timestamp())
        yield GaugeMetricFamily("slowwave_wal_bytes", "The database's write-ahead log.", self._log_bytes())
        yield GaugeMetricFamily("slowwave_memory_rows", "Memories of all users.", self._rows())


class Metrics:
    """One process's counters."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        sounding: Callable[[], Sequence[Alarm]],
        *,
        nights: Callable[[], Tally],
        log_bytes: Callable[[], int],
        rows: Callable[[], int],
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(_EngineGauges(stats))
        self.registry.register(_MemoryAlarms(sounding))
        self.registry.register(_House(nights, log_bytes, rows))
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token.", _LATENCY)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens of a reply.", _PER_TOKEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "From the request to its last token.", _LATENCY)
        self._queue = self._histogram("request_queue_time_seconds", "In line.", _LATENCY)
        self._prompt = self._counter("prompt_tokens", "Prompt tokens, those found in the cache included.")
        self._generated = self._counter("generation_tokens", "Tokens written.")
        self._queried = self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hit = self._counter("prefix_cache_hits", "Prompt tokens found there, and not read again.")
        self._success = self._counter("request_success", "Replies, by how they ended.", "finished_reason")
        self._rejected = self._counter("admission_rejections", "Requests turned away, by why.", "reason")

    def finished(self, timings: Timings, finish_reason: str) -> None:
        """Count one reply."""
        prompt = timings.prefill_tokens + timings.cached_tokens
        self._prompt.inc(prompt)
        self._generated.inc(timings.completion_tokens)
        self._queried.inc(prompt)
        self._hit.inc(timings.cached_tokens)
        self._success.labels(finish_reason).inc()
        self._queue.observe(timings.queue)
        self._whole.observe(timings.queue + timings.prefill + timings.decode)
        if timings.completion_tokens:
            self._first.observe(timings.time_to_first_token)
        if timings.tokens_per_second:
            self._between.observe(1.0 / timings.tokens_per_second)

    def rejected(self, reason: str) -> None:
        """Count one request that was turned away."""
        self._rejected.labels(reason).inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"slowwave_{name}", text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"slowwave_{name}", text, labels, registry=self.registry)
