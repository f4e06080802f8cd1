"""``/metrics``: what has been asked and how it went, for Prometheus. Nothing of what was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from quietmind.base.errors import SnapshotError
from quietmind.serve.served import Served
from quietmind.serve.threads import in_thread
from quietmind.workspace.store import open_store

if TYPE_CHECKING:
    from prometheus_client.core import Metric

METRICS = "/metrics"


def router(served: Served) -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    @routes.get(METRICS, response_class=Response)
    async def metrics() -> Response:
        """Return the numbers of now, in Prometheus' own text format."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collected(served, await _snapshot_bytes(served)))
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes


async def _snapshot_bytes(served: Served) -> int | None:
    """Return what the snapshots take on the disk; None where that is not known."""
    if (folder := served.workspace) is None:
        return None
    try:
        return await in_thread(lambda: open_store(folder).bytes_used(), None)
    except SnapshotError:
        return None


class _Collected:
    """The numbers as Prometheus has them."""

    def __init__(self, served: Served, snapshot_bytes: int | None) -> None:
        self._served = served
        self._snapshot_bytes = snapshot_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield each kind of number, as the registry asks for."""
        from prometheus_client.core import GaugeMetricFamily

        yield from self._requests()
        yield from self._models()
        if self._snapshot_bytes is not None:
            told = "Bytes that the snapshots of notebooks take on the disk."
            yield GaugeMetricFamily("quietmind_snapshot_bytes", told, value=self._snapshot_bytes)

    def _requests(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = self._served.requests
        counts = CounterMetricFamily(
            "quietmind_requests", "Requests that were answered, or whose client left.", labels=["route", "status"]
        )
        for (route, status), count in sorted(requests.counts.items()):
            counts.add_metric([route, status], count)
        yield counts
        seconds = HistogramMetricFamily(
            "quietmind_request_seconds", "Seconds from a request to the end of its answer.", labels=["route"]
        )
        for route, spread in sorted(requests.seconds.items()):
            seconds.add_metric([route], spread.buckets(), spread.sum)
        yield seconds

    def _models(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        ready = GaugeMetricFamily("quietmind_engine_ready", "Whether the engine takes requests.", labels=["model"])
        line = GaugeMetricFamily("quietmind_in_line", "Requests by what they do now.", labels=["model", "state"])
        first = HistogramMetricFamily(
            "quietmind_first_token_seconds", "Seconds from a request to its first token.", labels=["model"]
        )
        tokens = CounterMetricFamily(
            "quietmind_tokens",
            "Tokens: cached and prefilled of prompts, written in answers, restored from snapshots.",
            labels=["model", "kind"],
        )
        for lane in self._served.lanes:
            ready.add_metric([lane.name], float(lane.supervised.state == "ready"))
            line.add_metric([lane.name, "waiting"], lane.turns.waiting)
            line.add_metric([lane.name, "answering"], lane.turns.answering)
            first.add_metric([lane.name], lane.tally.first_token.buckets(), lane.tally.first_token.sum)
            for kind in ("cached", "prefilled", "restored", "written"):
                tokens.add_metric([lane.name, kind], lane.tally.tokens[kind])
        yield from (ready, line, first, tokens)
