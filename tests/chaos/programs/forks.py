"""Forks while threads append, every second time while the shipper is inside a batch.

Usage: forks.py DSN JOURNAL ACKNOWLEDGED FORKS. Prints what it saw as JSON.
"""

import json
import os
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from tenantry import Pipeline, log_event
from tenantry.exporters.transaction import BatchTransaction

TENANT = "018f6f0e-0000-7000-8000-000000000001"

dsn, journal, path, forks = sys.argv[1:]
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: forking beside threads
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
seen = {"inside a batch": 0, "flushed": 0}
inside = threading.Event()
begin, store = BatchTransaction._begin, BatchTransaction.store


def observed_begin(self, batch):
    begun = begin(self, batch)
    inside.set()
    return begun


def observed_store(self, batch):
    try:
        return store(self, batch)
    finally:
        inside.clear()


BatchTransaction._begin = observed_begin
BatchTransaction.store = observed_store
pipeline = Pipeline(
    dsn=dsn,
    journal=journal,
    open_taxonomy=["tick"],
    ship_interval=0.005,
    journal_max_bytes=2**30,
)
stop = threading.Event()


def tick() -> None:
    event_id = log_event("tick", tenant=TENANT)
    if event_id is not None:
        os.write(acknowledgements, f"{event_id}\n".encode())


def emit() -> None:
    with pipeline:
        while not stop.wait(0.001):
            tick()


def wait_for_batch() -> bool:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if inside.is_set():
            return True
    return False


def socket_of_connection() -> str:
    connection = pipeline.exporter._connection
    assert connection is not None
    return str(Path(f"/proc/self/fd/{connection.fileno()}").readlink())


def sockets() -> list[str]:
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the listing itself
            found.append(str(fd.readlink()))
    return found


def child(number: int, inherited: str) -> None:
    code = 1
    try:
        tick()
        assert inherited not in sockets(), "the parent's connection is still open here"
        if number % 20 == 0:
            assert pipeline.flush(20)
            assert socket_of_connection() != inherited
        tick()
        code = 0
    except BaseException as error:  # noqa: BLE001  # told, and the exit code says the rest
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


with pipeline:
    tick()
    assert pipeline.flush(20)
    ours = socket_of_connection()
    threads = [threading.Thread(target=emit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(int(forks)):
        if number % 2 == 0:
            seen["inside a batch"] += wait_for_batch()
        pid = os.fork()
        if pid == 0:
            child(number, ours)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert pipeline.flush(20)
    seen["same connection"] = socket_of_connection() == ours
sys.stdout.write(json.dumps(seen))
