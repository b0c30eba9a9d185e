"""What a server counts and measures, in Prometheus' format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.types import Answer

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; a request is one answer of one prompt.

    Attributes:
        waiting: requests without a first token.
        running: requests whose answers are growing.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.waiting = Gauge("llm_requests_waiting", "Requests without a first token.", registry=registry)
        self.running = Gauge("llm_requests_running", "Answers that are growing.", registry=registry)
        self._ended = Counter(
            "llm_requests", "Requests that have ended, by reason.", ["finish_reason"], registry=registry
        )
        self._read = Counter("llm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter(
            "llm_prefix_cache_hit_tokens",
            "Tokens of prompts that were in the KV cache already.",
            registry=registry,
        )
        self._written = Counter("llm_generation_tokens", "Tokens of answers.", registry=registry)
        self._first = Histogram(
            "llm_time_to_first_token_seconds",
            "From a request's arrival to the first text of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._each = Histogram(
            "llm_time_per_output_token_seconds",
            "Mean time between the tokens of an answer.",
            buckets=_SECONDS,
            registry=registry,
        )

    def first(self, seconds: float) -> None:
        """Counts a request whose answer begins, so many seconds after it came."""
        self.waiting.dec()
        self.running.inc()
        self._first.observe(seconds)

    def ended(self, answer: Answer, seconds: float) -> None:
        """Counts a request whose answer is whole, so many seconds after its first text."""
        self.running.dec()
        self._ended.labels(answer.finish_reason).inc()
        usage = answer.usage
        self._read.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._written.inc(usage.completion_tokens)
        if usage.completion_tokens > 1:
            self._each.observe(seconds / (usage.completion_tokens - 1))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
