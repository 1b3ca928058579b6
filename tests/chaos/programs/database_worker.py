"""A process of an application, led over its standard input and output, a line of JSON each way.

Usage: database_worker.py OPTIONS, a JSON object: those of ``Pipeline``, ``acknowledged`` (the file
of ids), and ``own`` for what `Worker` reads.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

import tenantry.exporters.absentees
import tenantry.metrics
import tenantry.shipper
from tenantry import Pipeline, emits, log_event, tenant
from tenantry.exporters import Batch, Outcome
from tenantry.exporters.postgres import PostgresExporter
from tenantry.record import Clock

TENANT = "018f6f0e-0000-7000-8000-000000000001"
PAGE = os.sysconf("SC_PAGESIZE")
SHIPPER = ("EXPORT_TIMEOUT", "LONGEST_BACKOFF", "LONGEST_SOON", "HOLD", "ADOPTION_INTERVAL")
"""Constants of `tenantry.shipper` that ``own`` may replace."""


class SlowExporter(PostgresExporter):
    """The real one, on a database that takes ``seconds`` longer for each batch."""

    seconds = 0.0
    batches = 0

    def export(self, batch: Batch, deadline: float) -> Outcome:
        self.batches += 1
        if self.seconds:
            threading.Event().wait(self.seconds)  # it is the fault
        return super().export(batch, deadline)


class ShiftedClock(Clock):
    """A clock that is put forward and back."""

    shift = 0

    def time_ns(self) -> int:  # type: ignore[override]  # static there
        return time.time_ns() + self.shift


class Acknowledgements:
    """The file of ids, and how many calls said no."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())

    def tick(self, **data: object) -> str | None:
        event_id = log_event("tick", **{"tenant": TENANT, **data})
        if event_id is not None:
            self.write(event_id)
        return event_id


class Load:
    """Threads that emit until told to end, with a pause of ``pause`` seconds between two events."""

    def __init__(self, worker: Worker, threads: int, pause: float) -> None:
        self._worker = worker
        self._pause = pause
        self._stop = threading.Event()
        self.accepted = [0] * threads
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, thread: int) -> None:
        number = 0
        with self._worker.pipeline:
            while not self._stop.wait(self._pause):
                taken = self._worker.acknowledged.tick(thread=thread, number=number)
                self.accepted[thread] += taken is not None
                number += 1

    def end(self) -> int:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return sum(self.accepted)


class Worker:
    """What the process does when told; what a method returns is sent back."""

    def __init__(self, options: dict) -> None:
        own = options.pop("own")
        if "user" in own:  # not sooner: it may not be allowed to read what is imported
            os.setgroups([])
            os.setgid(own["user"])
            os.setuid(own["user"])
        self.acknowledged = Acknowledgements(options.pop("acknowledged"))
        for name in SHIPPER:
            if name in own:
                assert hasattr(tenantry.shipper, name)
                setattr(tenantry.shipper, name, own[name])
        if "PATIENCE" in own:
            tenantry.exporters.absentees.PATIENCE = own["PATIENCE"]  # type: ignore[misc]
        self.exporter = SlowExporter(options.pop("dsn"))
        self.exporter.seconds = own.get("seconds_a_batch", 0.0)
        self.clock = ShiftedClock()
        options = {"open_taxonomy": ["tick", "work_*"], "ship_interval": 0.01, **options}
        self.pipeline = Pipeline(exporter=self.exporter, clock=self.clock, **options)
        self.pipeline.__enter__()
        self.load: Load | None = None
        self.running: dict[str, Iterator[str]] = {}

    def pid(self) -> int:
        return os.getpid()

    def emit(self, count: int, **data) -> int:
        """Emit one after the other; says how many were accepted."""
        first = data.pop("first", 0)
        return sum(
            self.acknowledged.tick(number=first + n, **data) is not None for n in range(count)
        )

    def emit_until_dropped(self, most: int = 1_000_000, **data) -> int:
        for number in range(most):
            if self.acknowledged.tick(number=number, **data) is None:
                return number
        raise AssertionError(f"all {most} were accepted")

    def burst(self, count: int, threads: int = 4) -> dict:
        """Emit from several threads at once; says what the slowest call took, in seconds."""
        accepted, slowest = [0] * threads, [0.0] * threads

        def run(thread: int) -> None:
            with self.pipeline:
                for number in range(count // threads):
                    begun = time.perf_counter()
                    event_id = log_event("tick", tenant=TENANT, thread=thread, number=number)
                    slowest[thread] = max(slowest[thread], time.perf_counter() - begun)
                    if event_id is not None:
                        accepted[thread] += 1
                        self.acknowledged.write(event_id)

        running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return {"accepted": sum(accepted), "slowest": max(slowest)}

    def start_load(self, threads: int = 1, pause: float = 0.0005) -> None:
        self.load = Load(self, threads, pause)

    def end_load(self) -> int:
        assert self.load is not None
        return self.load.end()

    def begin(self) -> str:
        """Begin an operation that `finish` ends."""
        block = self._operation()
        operation_id = next(block)
        self.running[operation_id] = block
        self.acknowledged.write(f"open {operation_id}")
        return operation_id

    def finish(self, operation_id: str) -> None:
        self.acknowledged.write(f"closing {operation_id}")
        next(self.running.pop(operation_id), None)
        self.acknowledged.write(f"closed {operation_id}")

    def _operation(self) -> Iterator[str]:
        with tenant(TENANT), emits("work") as operation:
            yield operation.id

    @contextmanager
    def _transaction(self, dsn: str, ending: str) -> Iterator[psycopg.Connection]:
        with psycopg.connect(dsn) as conn:
            if ending == "fails":  # a deferred constraint of the host's own, found at the commit
                conn.execute("INSERT INTO public.host VALUES (1), (1)")
            yield conn
            try:
                conn.rollback() if ending == "rolls back" else conn.commit()
            except psycopg.errors.UniqueViolation:
                assert ending == "fails"
            else:
                assert ending != "fails"

    def hand_over(self, dsn: str, ending: str) -> str:
        """Run an operation whose completed event goes into a transaction that ends as told."""
        with (
            self._transaction(dsn, ending) as conn,
            tenant(TENANT),
            emits("work", conn=conn) as operation,
        ):
            pass
        return operation.id

    def fork_within_a_block(self) -> int:
        """Fork within an open ``with emits``; parent and child both leave it, and emit."""
        with tenant(TENANT), emits("work") as operation:
            self.acknowledged.write(f"open {operation.id}")
            self.acknowledged.tick(place="before the fork")
            pid = os.fork()
            self.acknowledged.tick(place=f"within the block, {pid}")
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
                self.acknowledged.write(f"closing {operation.id}")
        self.acknowledged.tick(place=f"behind the block, {pid}")
        if pid == 0:
            os._exit(0)
        self.acknowledged.write(f"closed {operation.id}")
        return pid

    def shift_clock(self, seconds: float) -> None:
        self.clock.shift = int(seconds * 1e9)

    def flush(self, timeout: float) -> dict:
        return self._timed(self.pipeline.flush, timeout)

    def shutdown(self, timeout: float) -> dict:
        return self._timed(self.pipeline.shutdown, timeout)

    def _timed(self, end, timeout: float) -> dict:
        begun = time.monotonic()
        report = end(timeout)
        seconds = time.monotonic() - begun
        names = ("settled", "stored", "rejected", "pending", "mode", "error")
        return {"seconds": seconds} | {name: getattr(report, name) for name in names}

    def stats(self) -> dict:
        stats = self.pipeline.stats()
        names = ("mode", "emitted", "accepted", "handed", "sampled_out", "stored", "rejected")
        more = ("dropped", "pending", "adopted", "error")
        return {name: getattr(stats, name) for name in (*names, *more)} | {
            "drops": [[d.reason, d.tenant_id, d.name, d.count] for d in stats.drops],
            "batches": self.exporter.batches,
            "segments": max(self.pipeline._journal.segments),
        }

    def slow_down(self, seconds: float) -> None:
        self.exporter.seconds = seconds

    def memory(self) -> dict:
        """Measure what is to stay flat: private memory in bytes, and descriptors."""
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return {"private": (int(resident) - int(shared)) * PAGE, "descriptors": descriptors}


def main() -> None:
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
