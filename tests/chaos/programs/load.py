"""Emits from four threads, facts and operations, writes down each id, and ends as told.

Usage: load.py DSN JOURNAL ACKNOWLEDGED ENDING [EVENTS]

With EVENTS, the threads end first; without, they go on until the process dies. Endings that come
from within come in the middle of an operation.
"""

import ctypes
import faulthandler
import itertools
import logging
import os
import signal
import sys
import threading

from tenantry import Pipeline, emits, log_event, tenant
from tenantry.exporters.transaction import BatchTransaction

TENANTS = [f"018f6f0e-0000-7000-8000-00000000000{number}" for number in (1, 2)]


class Load:
    """A pipeline, and what four threads do with it."""

    def __init__(self, dsn: str, journal: str, path: str) -> None:
        logging.getLogger("tenantry").addHandler(logging.NullHandler())
        self.acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.pipeline = Pipeline(
            dsn=dsn,
            journal=journal,
            taxonomy="tenantry.taxonomies.saas",
            open_taxonomy=["tick", "work_*"],
            ship_interval=0.01,
            service="chaos",
            journal_max_bytes=2**30,
        )

    def note(self, line: str | None) -> None:
        if line is not None:
            os.write(self.acknowledgements, f"{line}\n".encode())

    def tick(self, **data: object) -> None:
        self.note(log_event("tick", **data))

    def emit(self, index: int, count: int | None) -> None:
        scope = tenant(TENANTS[index % 2], actor=f"user:{index}", correlation=f"c{index}")
        with self.pipeline, scope:
            for number in itertools.count() if count is None else range(count):
                self.tick(number=number)
                if number % 10 == 0:
                    self.operate(number)

    def operate(self, number: int) -> None:
        kind = ("ingest", "work")[number % 20 // 10]  # a declared one, and one that is not
        with emits(kind, source_type="web", url=f"https://example.com/{number}") as operation:
            self.note(f"open {operation.id}")
            self.tick(number=number)
            operation.set(docs=1, chunks=2)
            self.note(f"closing {operation.id}")
        self.note(f"closed {operation.id}")

    def start(self, count: int | None = None) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self.emit, args=(index, count), daemon=True)
            for index in range(4)
        ]
        for thread in threads:
            thread.start()
        return threads

    def end_within_operation(self, ending: str) -> None:
        inside = emits("ingest", source_type="file", url="a.pdf")
        with tenant(TENANTS[0], actor="user:9"), inside as operation:
            self.note(f"open {operation.id}")
            operation.set(docs=1, chunks=2)
            try:
                self.end(ending)
            finally:
                self.note(f"closing {operation.id}")
        self.note(f"closed {operation.id}")

    def end(self, ending: str) -> None:
        if ending == "_exit":
            os._exit(3)
        elif ending == "exit":
            sys.exit(3)
        elif ending == "abort":
            os.abort()
        elif ending == "segfault":
            faulthandler._sigsegv()
        elif ending == "null pointer":
            ctypes.string_at(0)
        elif ending == "raise":
            raise RuntimeError("nobody handles this")
        elif ending == "append":
            self.die_within_an_append()
            self.tick(number=-1)
        elif ending in {"exit in a thread", "raise in a thread"}:
            thread = threading.Thread(target=self.end, args=(ending.split(maxsplit=1)[0],))
            thread.start()
            thread.join()

    def die_within_an_append(self) -> None:
        """Take the place of the journal's store: half a line is copied, and then SIGKILL comes."""
        journal = self.pipeline._journal
        segment = journal.shelf.active

        def write(line: bytes) -> None:
            begin = segment.map.tell()
            segment.map[begin : begin + len(line) // 2] = line[: len(line) // 2]
            os.kill(os.getpid(), signal.SIGKILL)

        journal._write = write

    def stop(self, number: int, frame: object) -> None:
        self.note(log_event("tick", tenant=TENANTS[0], signal=number))
        raise SystemExit(7)


def die_within_a_batch(point: str) -> None:
    """Let SIGKILL come at a point of the second batch's transaction, while threads append."""
    batches = itertools.count(1)
    begin, pipelined, store = (
        BatchTransaction._begin,
        BatchTransaction._pipelined,
        BatchTransaction.store,
    )

    def die_at(here: str) -> None:
        if point == here and next(batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_begin(self, batch):
        begun = begin(self, batch)
        die_at("cursor moved")
        return begun

    def dying_pipelined(self, statements):
        if point == "rows stored" and statements[-1][0] == b"COMMIT" and next(batches) == 2:
            pipelined(self, statements[:-1])
            os.kill(os.getpid(), signal.SIGKILL)
        return pipelined(self, statements)

    def dying_store(self, batch):
        outcome = store(self, batch)
        die_at("committed")
        return outcome

    BatchTransaction._begin = dying_begin
    BatchTransaction._pipelined = dying_pipelined
    BatchTransaction.store = dying_store


def main() -> None:
    dsn, journal, path, ending = sys.argv[1:5]
    count = int(sys.argv[5]) if len(sys.argv) > 5 else None
    die_within_a_batch(ending)
    load = Load(dsn, journal, path)
    if ending == "handler":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, load.stop)
    for thread in load.start(count):
        thread.join()
    with load.pipeline:
        if ending:
            load.end_within_operation(ending)


if __name__ == "__main__":
    main()
