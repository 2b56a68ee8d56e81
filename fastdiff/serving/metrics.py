"""What Prometheus reads at ``/metrics``: one registry per server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fastdiff.serving.costs import power_of_two_from
from fastdiff.serving.jobs import Observer, WorkerStatus

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Statuses = Callable[[], Mapping[str, WorkerStatus]]


class Metrics:
    """Counts of one server.

    Attributes
    ----------
    requests : Counter
        Requests for images by ``model`` and ``outcome``: ok, invalid, refused, unavailable,
        cancelled, deadline, failed.
    in_progress : Gauge
        Requests for images that have not been answered to their end.
    seconds, queue_seconds : Histogram
        Of requests that were answered: from arrival to the end, and in the queue.
    images : Counter
        Images that were delivered.
    dropped_partials : Counter
        Partial images that a slow reader did not get.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fastdiff_requests", "Requests by outcome", ["model", "outcome"], registry=registry
        )
        self.in_progress = Gauge(
            "fastdiff_requests_in_progress", "Requests being answered", registry=registry
        )
        self.seconds = _histogram(registry, "request_seconds", "Arrival to end", _SECONDS)
        self.queue_seconds = _histogram(registry, "queue_seconds", "Wait for a step", _SECONDS)
        self.images = Counter(
            "fastdiff_images", "Images delivered", ["model", "format"], registry=registry
        )
        self.dropped_partials = Counter(
            "fastdiff_dropped_partial_images", "Not sent: slow reader", ["model"], registry=registry
        )
        self._rows = _histogram(registry, "rows_per_step", "Rows that share a step", _ROWS)
        self._step_seconds = _histogram(
            registry, "step_seconds", "Time of a step", _STEP_SECONDS, "evaluations"
        )
        self._wasted = Counter(
            "fastdiff_wasted_steps", "Row steps without an image", ["model", "reason"],
            registry=registry,
        )  # fmt: skip
        self._non_finite = Counter(
            "fastdiff_non_finite", "Rows with a non-finite output", ["model"], registry=registry
        )
        self._rebuilt = Counter(
            "fastdiff_engine_rebuilds",
            "Engines rebuilt after a crash",
            ["model"],
            registry=registry,
        )
        self._backend = Gauge(
            "fastdiff_backend_info", "1 for the backend that runs", ["model", "backend"],
            registry=registry,
        )  # fmt: skip

    def watch(self, statuses: Statuses) -> None:
        """Ask `statuses` for the queues whenever somebody reads the metrics."""
        self.registry.register(_Queues(statuses))

    def observer(self, model: str, backend: str) -> ModelObserver:
        """Return what the worker of `model` tells its steps to."""
        self._backend.labels(model, backend).set(1)
        return ModelObserver(
            model, self._rows, self._step_seconds, self._wasted, self._non_finite, self._rebuilt
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelObserver(Observer):
    """Counts what one worker does."""

    def __init__(
        self,
        model: str,
        rows: Histogram,
        step_seconds: Histogram,
        wasted: Counter,
        non_finite: Counter,
        rebuilt: Counter,
    ) -> None:
        self._model = model
        self._step_seconds, self._wasted = step_seconds, wasted
        self._rows, self._non_finite = rows.labels(model), non_finite.labels(model)
        self._rebuilt = rebuilt.labels(model)

    def step(self, rows: int, evaluations: int, seconds: float) -> None:
        """Record a step; evaluations are counted in buckets that are powers of two."""
        self._rows.observe(rows)
        bucket = str(power_of_two_from(evaluations))
        self._step_seconds.labels(self._model, bucket).observe(seconds)

    def wasted(self, row_steps: int, reason: str) -> None:
        """Record steps of rows that ended without an image."""
        self._wasted.labels(self._model, reason).inc(row_steps)

    def non_finite(self, rows: int) -> None:
        """Record rows whose model output was not finite."""
        self._non_finite.inc(rows)

    def rebuilt(self) -> None:
        """Record that the engine was rebuilt after a crash."""
        self._rebuilt.inc()


class _Queues(Collector):
    """The queues as they are when somebody looks."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the families without their values, so that registering asks no worker."""
        return [_queue_depth(), _jobs()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the queues of all workers."""
        depth, jobs = _queue_depth(), _jobs()
        for model, status in self._statuses().items():
            depth.add_metric([model, "waiting"], status.waiting_rows)
            depth.add_metric([model, "running"], status.running_rows)
            jobs.add_metric([model], status.jobs)
        return [depth, jobs]


def _queue_depth() -> GaugeMetricFamily:
    return GaugeMetricFamily("fastdiff_rows", "Rows in the queue", labels=["model", "state"])


def _jobs() -> GaugeMetricFamily:
    return GaugeMetricFamily("fastdiff_jobs", "Jobs that hold a place", labels=["model"])


def _histogram(
    registry: CollectorRegistry, name: str, text: str, buckets: tuple[float, ...], *labels: str
) -> Histogram:
    return Histogram(
        f"fastdiff_{name}", text, ["model", *labels], buckets=buckets, registry=registry
    )
