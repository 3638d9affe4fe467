"""A service with something to see on its live page, served in a thread; and as a script, for pictures.

`python tests/support/page_app.py --shot DIR` writes page-desktop.png and page-phone.png there, in light, and with
`--dark` in dark colours too. `--port 8000` serves it until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import modelwatch

HOST = "127.0.0.1"
NAME = {"model_name": "loan-risk", "model_version": "2026.3"}
_PURPOSES = ("car", "debt", "education", "home", "medical", "other", "travel", "wedding")


class Loan(BaseModel):
    """One row."""

    age: int
    income: float
    amount: float
    term: int
    purpose: str
    channel: str
    employment_years: float | None
    previous_loans: int


def loans(rows: int, seed: int, drift: float = 0.0) -> dict[str, Any]:
    """So many rows as columns; with drift some of them are no longer what they were."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(["branch", "online", "phone"], rows, p=(0.35, 0.5, 0.15)).astype(object)
    years = np.round(rng.gamma(2.0, 3.5, rows), 1)
    if drift:
        channel[rng.random(rows) < 0.09 * drift] = "partner app"
        years[rng.random(rows) < 0.07 * drift] = np.nan
    table = {
        "age": np.clip(rng.normal(41 - 3.2 * drift, 12, rows), 18, 90).astype(int),
        "income": np.round(rng.lognormal(10.4 + 0.34 * drift, 0.45, rows), 0),
        "amount": np.round(rng.lognormal(9.0, 0.7, rows), -2),
        "term": rng.choice([12, 24, 36, 48, 60], rows, p=(0.1, 0.2, 0.35, 0.2, 0.15)),
        "purpose": rng.choice(_PURPOSES, rows, p=(0.22, 0.2, 0.08, 0.2, 0.07, 0.1, 0.08, 0.05)),
        "channel": channel,
        "employment_years": years,
        "previous_loans": rng.poisson(1.3, rows),
    }
    return table | decided(table)


def decided(table: dict[str, Any]) -> dict[str, Any]:
    """What the model says of each row, and how sure it is."""
    risk = 1.4 * np.log(table["amount"] / table["income"] * 3.4) - 0.02 * (table["age"] - 41)
    share = 1 / (1 + np.exp(-risk))
    decision = np.where(share < 0.45, "approve", np.where(share < 0.62, "review", "decline"))
    return {"decision": decision, "confidence": np.round(0.5 + np.abs(share - 0.5), 4)}


def records(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The inputs as JSON takes them, row by row."""
    columns = [table[name].tolist() for name in Loan.model_fields]
    rows = (dict(zip(Loan.model_fields, row, strict=True)) for row in zip(*columns, strict=True))
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]  # noqa: PLR0124 - NaN


def make(**settings: Any) -> FastAPI:
    """The service, with its page."""
    app = FastAPI()
    reference = modelwatch.ReferenceProfile.fit(loans(12_000, 1), prediction="decision", confidence="confidence")
    modelwatch.instrument(app, **NAME, reference=reference, settings=modelwatch.Settings(page=True, **settings))
    rng = np.random.default_rng(7)

    @app.post("/decide")
    async def decide(batch: list[Loan]) -> list[dict[str, Any]]:
        if len(batch) == 13:  # not the model's lucky number
            raise HTTPException(503)
        await asyncio.sleep(float(rng.lognormal(-4.1, 0.5)))
        table = {name: np.array([getattr(loan, name) for loan in batch]) for name in ("age", "income", "amount")}
        found = decided(table)
        return [
            {"decision": str(decision), "confidence": float(confidence)}
            for decision, confidence in zip(found["decision"], found["confidence"], strict=True)
        ]

    return app


@contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """The address of an app, while it is served by a thread of this process."""
    listener = socket.create_server((HOST, port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server has not started"
            time.sleep(0.005)
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


def post(address: str, bodies: Iterable[Any], path: str = "/decide") -> None:
    """POST each of the bodies, over one connection."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    try:
        for body in bodies:
            connection.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})
            connection.getresponse().read()
    finally:
        connection.close()


def live(app: FastAPI, address: str, turns: int = 60, rows: int = 96) -> None:
    """Some traffic that drifts more and more, with a snapshot of the history after each turn instead of 15 s."""
    history = app.state.modelwatch.page.history
    for turn in range(turns):
        drift = max(0.0, (turn - turns / 3) / (turns * 2 / 3))
        batch = records(loans(rows, 100 + turn, drift=1.25 * drift))
        size = 6 + turn % 5
        bodies: list[Any] = [batch[i : i + size] for i in range(0, len(batch), size)]
        if turn % 6 == 2:
            bodies.append([{"age": "unknown"}])
        if turn % 17 == 9:
            bodies.append(batch[:13])
        threads = [threading.Thread(target=post, args=(address, bodies[i::3])) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history._due = -1e300
        history.tick()


def shoot(address: str, directory: Path, *, dark: bool) -> None:
    """Pictures of the page: all of it with a feature open, and what a phone shows first."""
    from support.browser import opened

    with opened() as browser:
        for scheme in ("light", "dark") if dark else ("light",):
            for name, size, scale in (("desktop", (1280, 800), 1.5), ("phone", (390, 900), 2)):
                context = browser.new_context(
                    viewport={"width": size[0], "height": size[1]}, device_scale_factor=scale, color_scheme=scheme
                )
                shown = context.new_page()
                shown.goto(f"{address}/modelwatch")
                shown.locator(".feature .mini svg").first.wait_for()
                if name == "desktop":
                    shown.locator(".row", has_text="income").click()
                    shown.locator(".detail .plot svg").first.wait_for()
                    shown.mouse.move(0, 0)
                stem = f"page-{name}" + ("-dark" if scheme == "dark" else "")
                shown.screenshot(path=directory / f"{stem}.png", full_page=name == "desktop")
                context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shot", type=Path, help="directory to write pictures into, instead of going on")
    parser.add_argument("--dark", action="store_true", help="pictures in dark colours too")
    options = parser.parse_args()
    app = make()
    with served(app, options.port) as address:
        live(app, address)
        if options.shot is not None:
            options.shot.mkdir(parents=True, exist_ok=True)
            shoot(address, options.shot, dark=options.dark)
            return
        sys.stdout.write(f"{address}/modelwatch\n")
        sys.stdout.flush()
        for turn in range(10**9):
            post(address, [records(loans(8, 1000 + turn, drift=1.0))])
            time.sleep(0.1)


if __name__ == "__main__":
    main()
