"""Sends April 2011 to December 2012 to the service, a request for each day: python replay.py http://127.0.0.1:8000"""

import csv
import gzip
import itertools
import sys
from pathlib import Path

import httpx

DATA = Path(__file__).with_name("bike_demand.csv.gz")
KNOWN_LATER = {"id", "label_ts", "count"}  # not when the prediction is asked for


def days(path=DATA, since="2011-04-01"):
    """Days in order, by default those of the serving period: (date, hours), an hour as the service takes it."""
    with gzip.open(path, "rt", newline="") as file:
        served = [row for row in csv.DictReader(file) if row["ts"] >= since]
    for date, rows in itertools.groupby(served, key=lambda row: row["ts"][:10]):
        yield date, [{k: v or None for k, v in row.items() if k not in KNOWN_LATER} for row in rows]


def replay(url, path=DATA):
    """Send day after day; yields (date, predictions) after each."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        for date, hours in days(path):
            yield date, client.post("/predict", json=hours).raise_for_status().json()


if __name__ == "__main__":
    sent = 0
    for date, predictions in replay(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"):
        sent += len(predictions)
        print(f"\r{date}  {sent:,} rows", end="", flush=True)
    print()
