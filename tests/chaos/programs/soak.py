"""Emits many events from two threads, at the pace of the database, and watches what it takes.

Usage: soak.py DSN JOURNAL ACKNOWLEDGED EVENTS. Prints samples as JSON: resident bytes, descriptors
and threads, from a fifth of the events on.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from tenantry import Pipeline, log_event

TENANT = "018f6f0e-0000-7000-8000-000000000001"
THREADS = 2
STEP = 1_000
PENDING = 30_000
"""Events that may wait for the database: the journal stays well below its limit."""

dsn, journal, path, count = sys.argv[1:]
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pipeline = Pipeline(dsn=dsn, journal=journal, open_taxonomy=["tick"])


def emit(share: int) -> None:
    with pipeline:
        for begin in range(0, share, STEP):
            some = range(begin, min(begin + STEP, share))
            ids = [log_event("tick", tenant=TENANT, number=number) for number in some]
            os.write(acknowledgements, "".join(f"{each}\n" for each in ids if each).encode())
            while pipeline.stats().pending > PENDING:
                pipeline.flush(0.05)


def sample() -> tuple[int, int, int]:
    # Shared pages are those of mapped segments: the journal has a limit of its own.
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    page = os.sysconf("SC_PAGE_SIZE")
    return (
        (resident - shared) * page,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
    )


begin = time.monotonic()
threads = [threading.Thread(target=emit, args=(int(count) // THREADS,)) for _ in range(THREADS)]
for thread in threads:
    thread.start()
samples = []
while threads[0].is_alive() and threads[1].is_alive():
    threads[0].join(0.2)
    if pipeline.stats().emitted >= int(count) // 5:
        samples.append(sample())
for thread in threads:
    thread.join()
assert pipeline.flush(60)
samples.append((*sample()[:2], samples[-1][2]))
rss, fds, alive = zip(*samples, strict=True)
seconds = time.monotonic() - begin
sys.stdout.write(json.dumps({"rss": rss, "fds": fds, "threads": alive, "seconds": seconds}))
