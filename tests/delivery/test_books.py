"""The books balance at every step, whatever happens."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenantry import Pipeline, Sampling, Stats, emits, log_event, tenant
from tenantry.exporters import Retry
from tenantry.shipper import Shipper
from tests.delivery.deliveries import wait_until
from tests.delivery.pipelines import TENANT, Destination, make_pipeline

NEVER = Sampling(rate=1e-18)
SEGMENT_BYTES = 4096


def is_balanced(stats: Stats) -> bool:
    accounted = stats.accepted + stats.handed + stats.sampled_out + sum(stats.dropped.values())
    settled = stats.stored + stats.rejected + stats.pending
    return stats.emitted == accounted and stats.accepted == settled and stats.pending >= 0


class BooksMachine(RuleBasedStateMachine):
    """A process that emits, with a destination that comes, goes and refuses, and that dies."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="tenantry-books-"))
        self.destination = Destination()
        self.destination.refuse = lambda event: b'"refused":true' in event
        self.accepted: set[str] = set()
        self.handed = 0
        self.died = 0
        self.pipeline = self._start()

    def _start(self) -> Pipeline:
        # Six segments in all: the limit is soon reached while the destination is away.
        pipeline = make_pipeline(
            self.destination,
            self.root,
            open_taxonomy=["tick", "rare", "work_*"],
            sampling={"rare": NEVER},
            ship_interval=0.005,
        )
        journal = pipeline._journal
        journal.shelf.segment_bytes = SEGMENT_BYTES
        journal.shelf.max_bytes = sum(journal.shelf.used_bytes()) + 5 * SEGMENT_BYTES
        while len(journal.segments) == 1:  # the first segment was made with the default size
            journal._replace(journal.shelf.active, journal.shelf.new_segment())
        return pipeline

    def _emit(self, *arguments, **data) -> None:
        with self.pipeline, tenant(TENANT):
            event_id = log_event(*arguments, **data)
        if event_id is not None and "conn" not in data:
            self.accepted.add(event_id)

    @rule(count=st.integers(1, 30), text=st.text(max_size=100))
    def emit(self, count: int, text: str) -> None:
        for _ in range(count):
            self._emit("tick", text=text)

    @rule()
    def emit_one_that_the_destination_refuses(self) -> None:
        self._emit("tick", refused=True)

    @rule()
    def emit_an_invalid_one(self) -> None:
        self._emit("nobody_declares_this")

    @rule()
    def sample_out(self) -> None:
        self._emit("rare")

    @rule()
    def hand_over(self) -> None:
        self._emit("tick", conn=object())
        self.handed += 1

    @rule()
    def hand_over_in_vain(self) -> None:
        with suppress(ConnectionError), self.pipeline:
            self.pipeline.insert(None, b"{}")

    @rule(fails=st.booleans())
    def run_an_operation(self, *, fails: bool) -> None:
        with suppress(ZeroDivisionError), self.pipeline, tenant(TENANT), emits("work"):
            self._emit("tick")
            assert 1 / (not fails)

    @rule(kind=st.sampled_from(["backoff", "hold"]))
    def destination_goes(self, kind: str) -> None:
        self.destination.trouble = Retry(kind, "away")
        self.destination.is_open.clear()

    @rule()
    def destination_comes(self) -> None:
        self.destination.is_open.set()

    @rule(count=st.integers(1, 2))
    def answers_are_lost(self, count: int) -> None:
        self.destination.lose_answers = count

    @rule()
    def rotate(self) -> None:
        journal = self.pipeline._journal
        with journal._rotation:
            journal._rotate(journal.shelf.active)

    @rule()
    def flush(self) -> None:
        report = self.pipeline.flush(5 if self.destination.is_open.is_set() else 0.01)
        if self.destination.is_open.is_set():
            assert report  # a record of a gap may be pending by now: it was accepted later

    @rule()
    def die(self) -> None:
        """Stop the threads, give up the locks, and remove nothing, as a kill does."""
        self._kill()
        self.pipeline = self._start()

    def _kill(self) -> None:
        self.died += 1
        shipper, journal = self.pipeline._shipper, self.pipeline._journal
        self.pipeline._shut_down = True
        self.destination.close()
        assert shipper.stop(shipper._monotonic() + 5)
        journal.close(remove=False)

    @invariant()
    def books_balance(self) -> None:
        # Between two counters, the shipper may be recording a gap: that one is counted in part.
        wait_until(lambda: is_balanced(self.pipeline.stats()), seconds=5)

    def teardown(self) -> None:
        if not hasattr(self, "pipeline"):
            return
        self._kill()
        self.destination.is_open.set()
        shipper = Shipper(
            self.destination, None, root=self.root, destination=self.destination.fingerprint
        )
        assert shipper.drain(shipper._monotonic() + 20)
        assert {entry.name for entry in self.root.iterdir()} <= {".crowded"}
        shutil.rmtree(self.root)
        self._compare()

    def _compare(self) -> None:
        """Every accepted event is there once: among the events, or among the rejects."""
        rows = [*self.destination.events, *self.destination.rejects]
        ids = [row.partition(b'"id":"')[2][:36].decode() for row in rows]
        assert len(ids) == len(set(ids))
        assert self.accepted <= set(ids)
        cursors = self.destination.cursors.values()
        assert sum(stored for _, stored, _ in cursors) == len(self.destination.events)
        assert sum(rejected for *_, rejected in cursors) == len(self.destination.rejects)


TestBooks = BooksMachine.TestCase
TestBooks.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
