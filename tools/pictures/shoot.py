"""Takes pictures of the dashboards and of the live page: `make pictures`.

A real Prometheus is seeded with hours of the example service (tests/support/seeding.py); what the panels ask it for is
drawn in headless Chromium by Grafana's own components (render.jsx), one picture for each dashboard. A line for each
panel says how many series it got; a panel that is empty, or has values that are no numbers, fails the run, unless EMPTY
says why it has to be.

    make pictures ARGS="--only drift --kept /tmp/seeded"
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from png import written  # noqa: E402
from support import page_app  # noqa: E402
from support.browser import opened  # noqa: E402
from support.dashboards import Answer, Board, load  # noqa: E402
from support.seeding import PICTURES, TESTS, Past, seeded  # noqa: E402

WIDTH = 1600
BIKE = {"job": ["bike-demand"], "model_name": ["bike-demand"]}
FLIGHTS = {"job": ["late-flights"], "model_name": ["late-flights"]}
# What is chosen where a person would choose; all else is as the dashboard says.
CHOSEN: Mapping[str, Mapping[str, Sequence[str]]] = {
    "modelwatch-overview": {},
    "modelwatch-service": {},
    "modelwatch-infra": {"job": ["bike-demand", "late-flights"]},
    "modelwatch-model": {**FLIGHTS, "baseline": ["7"], "feature": ["prediction"], "before": ["6h"]},
    "modelwatch-drift": {**BIKE, "model_version": ["2011.1"], "feature": ["temp"]},
}
OPENED = ("modelwatch-infra",)  # with the row of the GPUs, which stands for what else is closed
EMPTY = {
    ("modelwatch-model", "Predicted values"): "a classifier predicts none",
    ("modelwatch-model", "Since last alarm"): "there was none",
}
"""Panels that have nothing to show with what is chosen: (uid, title) -> why."""
PAGE = (
    "<!doctype html><html><head><meta charset='utf-8'><link rel='stylesheet' href='/build/render.css'>"
    "<style>body{margin:0;background:#111217}</style></head>"
    "<body><div id='root'></div><script src='/build/render.js'></script></body></html>"
)
DECODE = """async encoded => {
    const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${encoded}`)).blob());
    const context = new OffscreenCanvas(image.width, image.height).getContext('2d');
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const parts = [];
    for (let i = 0; i < data.length; i += 32766) parts.push(btoa(String.fromCharCode(...data.subarray(i, i + 32766))));
    return [image.width, image.height, parts.join('')];
}"""


def main() -> int:
    """Take the pictures; 1 if a panel is empty that should not be."""
    options = _options()
    _build()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    if dashboards := [name for name in options.only if name != "page"]:
        began = time.monotonic()
        with (
            opened() as browser,
            _directory(options.kept) as directory,
            seeded(directory, TESTS if options.short else PICTURES) as past,
            _served() as address,
        ):
            print(f"seeded in {time.monotonic() - began:.0f} s: {past.server.url}")
            for uid, dashboard in load().items():
                if uid in dashboards:
                    path = options.out / f"{uid}.png"
                    failed += _shoot(browser, address, past, dashboard, path, rows_open=options.open or uid in OPENED)
    if "page" in options.only:
        _shoot_page(options.out)
    if failed:
        print(f"{failed} panels are empty, or have values that are no numbers, without a reason in EMPTY.")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="dashboards by the end of their uid, and `page`; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="where the pictures go")
    parser.add_argument("--kept", type=Path, help="keep the seeded data here, or take those that are here")
    parser.add_argument("--short", action="store_true", help="the short story of the tests: quicker, less to see")
    parser.add_argument("--open", action="store_true", help="open the rows that are closed at first")
    options = parser.parse_args()
    known = [*CHOSEN, "page"]
    wished = known if options.only is None else [name for name in known if name.rpartition("-")[2] in options.only]
    if not wished:
        parser.error(f"--only takes {', '.join(name.rpartition('-')[2] for name in known)}")
    options.only = wished
    return options


def _build() -> None:
    """Fetch what is pinned, and bundle, if that is not done yet."""
    bundle, lock = HERE / "build" / "render.js", HERE / "package-lock.json"
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("The pictures need npm (Node.js 20 or newer) on PATH; there is none. Install Node.js.")
    fetched = HERE / "node_modules" / ".package-lock.json"
    if not fetched.exists() or fetched.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=HERE, check=True
        )
        fetched.touch()
    sources = [HERE / "render.jsx", HERE / "package.json", fetched]
    if not bundle.exists() or bundle.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        subprocess.run([npm, "run", "--silent", "build"], cwd=HERE, check=True)


@contextmanager
def _directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="modelwatch-pictures-") as directory:
        yield Path(directory)


class _Files(http.server.SimpleHTTPRequestHandler):
    """The bundle, and the icons and the font that Grafana's components ask for."""

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())
            return
        self.path = self.path.replace("/public/build/img/", "/node_modules/@grafana/ui/dist/public/img/")
        if self.path.startswith("/public/fonts/inter/"):
            self.path = "/node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2"
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def _served() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(HERE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _shoot(
    browser: Browser, address: str, past: Past, dashboard: Mapping[str, Any], path: Path, *, rows_open: bool
) -> int:
    """Draw a dashboard and write its picture; returns how many panels are empty without a reason."""
    began = time.monotonic()
    chosen = CHOSEN[dashboard["uid"]]
    board = Board(dashboard, past.server, start=past.start, end=past.end, scrape=past.story.step)
    failed, answers = 0, {}
    print(f"\n{dashboard['title']}")
    for panel in board.panels(chosen):
        if panel["type"] != "row":
            found = answers[_key(panel)] = board.answers(panel)
            failed += _told(dashboard["uid"], panel, found)
    panels = [
        {
            **panel,
            "title": board.interpolate(panel.get("title", ""), panel["values"]),
            "answers": [_plain(answer) for answer in answers.get(_key(panel), [])],
            "collapsed": bool(panel.get("collapsed")) and not rows_open,
        }
        for panel in board.panels(chosen, opened=rows_open)
    ]
    payload = {
        "dashboard": {"uid": dashboard["uid"], "title": dashboard["title"]},
        "panels": panels,
        "from": past.start * 1000,
        "to": past.end * 1000,
        "variables": _chips(dashboard, board.values(chosen)),
        "annotations": list(_marks(board, chosen)),
        "width": WIDTH,
    }
    asked = time.monotonic()
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=1)
    try:
        _drawn(page, address, payload)
        path.write_bytes(written(_pixels(page, page.locator("#drawn").screenshot(animations="disabled"))))
    finally:
        page.close()
    print(
        f"  -> {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}, "
        f"{path.stat().st_size / 1000:.0f} kB; queries {asked - began:.1f} s, picture {time.monotonic() - asked:.1f} s"
    )
    return failed


def _shoot_page(out: Path) -> None:
    """Write the pictures of the live page."""
    print("\nThe live page")
    app = page_app.make()
    with page_app.served(app) as url:
        page_app.live(app, url)
        page_app.shoot(url, out, dark=False)
    with opened() as browser:
        page = browser.new_page()
        for path in (out / "page-desktop.png", out / "page-phone.png"):
            path.write_bytes(written(_pixels(page, path.read_bytes())))
            print(f"  -> {path.name}, {path.stat().st_size / 1000:.0f} kB")


def _pixels(page: Page, png: bytes) -> np.ndarray:
    """Red, green and blue of a PNG file, which the browser knows how to read."""
    width, height, encoded = page.evaluate(DECODE, base64.b64encode(png).decode())
    return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(height, width, 4)[:, :, :3]


def _drawn(page: Page, address: str, payload: Mapping[str, Any]) -> None:
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.evaluate("payload => window.draw(payload)", payload)
    page.set_viewport_size({"width": WIDTH, "height": math.ceil(page.locator("#drawn").bounding_box()["height"])})
    page.wait_for_load_state("networkidle")  # icons
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    if wrong:
        raise SystemExit(f"The dashboard {payload['dashboard']['uid']} cannot be drawn: {wrong[0]}")


def _key(panel: Mapping[str, Any]) -> tuple[Any, str]:
    return panel.get("id"), json.dumps(panel["values"], sort_keys=True)


def _plain(answer: Answer) -> dict[str, Any]:
    """What a query brought, as JSON takes it."""
    lines = [
        {"labels": line.labels, "points": [[at, _number(value)] for at, value in line.points]} for line in answer.lines
    ]
    return {"target": answer.target, "expression": answer.expression, "step": answer.step, "lines": lines}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(uid: str, panel: Mapping[str, Any], answers: Sequence[Any]) -> int:
    """Print a line for a panel; returns 1 if it is empty or not a number and nothing says why."""
    series = " + ".join(f"{len(answer.lines)}" for answer in answers)
    points = sum(len(line.points) for answer in answers for line in answer.lines)
    nans = sum(answer.nans for answer in answers)
    errors = [answer.error.splitlines()[0] for answer in answers if answer.error]
    reason = EMPTY.get((uid, panel["title"]), "")
    wrong = errors or nans or (not points and not reason)
    mark = "!" if wrong else " "
    print(f"  {mark} {panel['type']:14} {panel['title'][:60]:60} {series:>12} series {points:>6} points"
          + (f", {nans} NaN" if nans else "") + (f", {errors[0]}" if errors else "")
          + (f"  ({reason})" if reason and not points else ""))  # fmt: skip
    return int(bool(wrong))


def _chips(dashboard: Mapping[str, Any], values: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the variables say on top of the dashboard."""
    found = []
    for variable in dashboard["templating"]["list"]:
        value = values.get(variable["name"], "")
        if value == variable.get("allValue"):
            value = "All"
        text = value if isinstance(value, str) else " + ".join(value)
        if variable.get("hide") != 2:
            found.append({"label": variable.get("label") or variable["name"], "value": text})
    return found


def _marks(board: Board, chosen: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Annotations as spans of time: points that follow each other are one."""
    for annotation, answer in board.annotations(chosen):
        spans: set[tuple[float, float]] = set()
        for line in answer.lines:
            times = [at for at, value in line.points if value > 0]
            while times:
                end = next((i for i in range(1, len(times)) if times[i] - times[i - 1] > answer.step), len(times))
                spans.add((times[0], times[end - 1]))
                times = times[end:]
        for start, end in sorted(spans):
            yield {"color": annotation["iconColor"], "from": start * 1000, "to": end * 1000}


if __name__ == "__main__":
    sys.exit(main())
