"""Forks while threads append. Usage: fork.py DSN JOURNAL ACKNOWLEDGED FORKS."""

import json
import os
import sys
import threading
import warnings

from tenantry import Pipeline, emits, log_event, tenant

TENANT = "018f6f0e-0000-7000-8000-000000000001"

dsn, journal, path, forks = sys.argv[1:]
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: forking beside threads
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pipeline = Pipeline(
    dsn=dsn,
    journal=journal,
    open_taxonomy=["tick", "ingest_*"],
    ship_interval=0.01,
    journal_max_bytes=2**30,
)
pipeline.__enter__()
stop = threading.Event()


def tick() -> None:
    event_id = log_event("tick", tenant=TENANT)
    if event_id is not None:
        os.write(acknowledgements, f"{event_id}\n".encode())


def emit() -> None:
    with pipeline:
        while not stop.wait(0.0005):
            tick()


def backend() -> int:
    assert pipeline.flush(20)
    return pipeline.exporter._connection.info.backend_pid  # type: ignore[attr-defined]


def in_child(action) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def report_backend() -> None:
    tick()
    os.write(acknowledgements, f"child {backend()}\n".encode())


tick()
parent = backend()
threads = [threading.Thread(target=emit) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(3):
    in_child(report_backend)
for _ in range(int(forks)):
    in_child(tick)
stop.set()
for thread in threads:
    thread.join()
with tenant(TENANT), emits("ingest") as operation:
    pid = os.fork()
    if pid != 0:
        os.waitpid(pid, 0)
if pid == 0:
    os._exit(0)
tick()
sys.stdout.write(json.dumps({"before": parent, "after": backend(), "operation": operation.id}))
