"""A service with metrics of its own on the page: FOREIGN_SERIES of them; with FOREIGN_HANGS, a collector that hangs."""

from __future__ import annotations

import os
import threading

from fastapi import FastAPI
from prometheus_client import Gauge
from prometheus_client.metrics_core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import modelwatch


class Hanging:
    """A collector that hangs until it is let go, and then says how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.go = 0, threading.Event()

    def collect(self):
        self.asked += 1
        self.go.wait()
        yield GaugeMetricFamily("late", "How often this was asked.", self.asked)


class Broken:
    """A collector that raises after its first family."""

    def collect(self):
        yield GaugeMetricFamily("half", "Half.", 1)
        raise ZeroDivisionError


def make() -> FastAPI:
    """The service, watched."""
    service = FastAPI()
    monitor = modelwatch.instrument(service, model_name="m", model_version="1")
    hanging = Hanging()
    if os.environ.get("FOREIGN_HANGS"):
        monitor.registry.register(Broken())
        monitor.registry.register(hanging)
    foreign = Gauge("foreign", "The service's own.", ["user", "place"], registry=monitor.registry)
    for number in range(int(os.environ.get("FOREIGN_SERIES", "1"))):
        foreign.labels(f"user{number}", f"place{number % 7}").set(number + 0.5)

    @service.get("/ping")
    async def ping() -> bool:
        return True

    @service.get("/asked")
    async def asked() -> int:
        return hanging.asked

    @service.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    @service.post("/raise/{name}")
    async def raises(name: str) -> None:
        raise type(name, (Exception,), {})

    async def below(request):
        return PlainTextResponse(request.path_params["thing"])

    service.mount("/mounted", Starlette(routes=[Route("/things/{thing}", below)]))
    return service


app = make()
