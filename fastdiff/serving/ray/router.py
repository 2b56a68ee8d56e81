"""The application in front of the replicas: that of a server, without models of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Metric,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastdiff.serving.answers import GENERATIONS
from fastdiff.serving.app import create_app
from fastdiff.serving.ray.relay import Relay, Replicas
from fastdiff.serving.service import Service

_SUMMED = ("waiting_rows", "running_rows", "jobs", "steps_per_second", "row_steps_per_second")


def create_router(service: Service, replicas: Replicas) -> Starlette:
    """Return the ASGI application of a router.

    It has the page, the keys and the paths of every server (`create_app`), and asks the replicas
    where that would ask its models.

    Parameters
    ----------
    service : Service
        Without models: its names, settings and image store are used.
    replicas : Replicas
    """
    app = create_app(service)
    registry = CollectorRegistry()
    lost = Counter("fastdiff_replicas_lost", "Requests whose replica died", registry=registry)
    relay = Relay(replicas, service.settings, service.images, lost)

    async def ready(request: Request) -> Response:
        """Say whether some replica takes requests."""
        states = {report["replica"]: report["state"] for report in await replicas.reports()}
        is_ready = "ready" in states.values()
        body = {"status": "ready" if is_ready else "loading", "replicas": states}
        return JSONResponse(body, 200 if is_ready else 503)

    async def status(request: Request) -> Response:
        """Return what every model takes, and what all of its replicas do."""
        return JSONResponse(merge_statuses(await replicas.reports()))

    async def metrics(request: Request) -> Response:
        """Return the metrics of all replicas, and the router's own."""
        texts = {report["replica"]: report["metrics"] for report in await replicas.reports()}
        text = merge_metrics(texts) + generate_latest(registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    app.router.routes[:0] = [
        Route(GENERATIONS, relay, methods=["POST"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/v1/status", status, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
    return app


def merge_statuses(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``/v1/status`` of several replicas: queues and rates add up."""
    models: dict[str, dict[str, Any]] = {}
    for report in reports:
        for model in report["models"]:
            known = models.get(model["name"])
            if known is None:
                models[model["name"]] = dict(model)
            else:
                known |= {key: known[key] + model[key] for key in _SUMMED}
    states = [report["state"] for report in reports]
    state = "ready" if "ready" in states else next(iter(states), "loading")
    return {"state": state, "replicas": len(reports), "models": list(models.values())}


def merge_metrics(texts: Mapping[str, str]) -> bytes:
    """Return the metrics of several replicas as one exposition, with a label ``replica``."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                merged.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(list(families.values())))
    return generate_latest(registry)


class _Families(Collector):
    """Metrics that are as they are."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families
