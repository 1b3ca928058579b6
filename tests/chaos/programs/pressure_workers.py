"""Forks workers that each configure, emit, and end without a flush.

Usage: pressure_workers.py DSN JOURNAL ACKNOWLEDGED WORKERS AT_ONCE EVENTS ENDING

``AT_ONCE`` workers run at a time; as many as wait at a barrier begin together. ENDING is ``exit``
(as a script that ends) or ``_exit`` (as a worker of a pool).
"""

import atexit
import os
import signal
import sys
from multiprocessing import Barrier

from tenantry import configure, log_event

TENANT = "018f6f0e-0000-7000-8000-000000000001"

dsn, journal, path, *numbers, ending = sys.argv[1:]
workers, at_once, events = map(int, numbers)
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def work(barrier) -> None:
    barrier.wait(60)
    configure(
        dsn=dsn,
        journal=journal,
        open_taxonomy=("tick",),
        service="short-lived",
        shutdown_timeout=60.0,  # many share two processors, and each is to end by itself
    )
    for number in range(events):
        os.write(file, f"{log_event('tick', tenant=TENANT, number=number)}\n".encode())


def run(barrier) -> None:
    status = 1
    try:
        work(barrier)
        if ending == "exit":
            atexit._run_exitfuncs()
        status = 0
    finally:
        os._exit(status)


left = workers
while left:
    crowd = min(at_once, left)
    barrier = Barrier(crowd)
    pids = []
    for _ in range(crowd):
        pid = os.fork()
        if pid == 0:
            signal.alarm(80)
            run(barrier)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0] * crowd, statuses
    left -= crowd
