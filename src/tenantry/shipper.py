"""The shipper: the thread that moves records from journals to the exporter.

Owns batches, retries and deadlines. It serves this process's journal and those of dead processes
that it adopts, and knows nothing of what a record means.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from tenantry.batches import Lane, make_batch
from tenantry.exporters import Batch, Exporter, Outcome, Position, Retry, Totals
from tenantry.journal import (
    Chunk,
    Journal,
    Slot,
    adopt,
    emitted_at,
    journal_directories,
    oldest_row,
    remove_unfinished,
)
from tenantry.record import Line, abandoned_event
from tenantry.tracing import hidden_from_instrumentation

logger = logging.getLogger("tenantry")

EXPORT_TIMEOUT: Final = 10.0
"""Seconds that one batch may take before it counts as failed."""

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 15.0
LONGEST_SOON: Final = 0.5
"""Seconds between tries at the most, where it is a matter of seconds."""

HOLD: Final = 5.0
"""Seconds between tries while somebody has to act."""

FINISH_TIMEOUT: Final = 1.0
"""Seconds for noting that a journal has ended: nothing depends on it, and an exit may wait."""

ENDED_KEPT: Final = 1000
"""Ended journals that are remembered until the destination can be told."""

ADOPTION_INTERVAL: Final = 2.0
"""Seconds between looks for journals of dead processes."""

RETAINED: Final = 300.0
"""Seconds for which settled segments are kept, to replay them after a failover to the past."""

REPEAT_WARNING: Final = 60.0
"""Seconds before a trouble that goes on is logged again."""


class Shipper:
    """Ships journals to one exporter from one thread, in order, for as long as it takes.

    ``root`` is the directory in which journals of dead processes are looked for, None for none.
    ``settled`` is notified after each settled batch; ``wake`` ends a pause early.
    """

    def __init__(
        self,
        exporter: Exporter,
        journal: Journal | None,
        *,
        root: Path | None,
        destination: str | None,
        interval: float = 0.25,
        retained: float = RETAINED,
        after_settling: Callable[[], object] = lambda: None,
        after_round: Callable[[], object] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``start`` makes the thread."""
        self._after_settling = after_settling
        self._after_round = after_round
        self.exporter = exporter
        self.journal = journal
        self.root = root
        self.destination = destination
        self.interval = interval
        self.retained = retained
        self.trouble: Retry | None = None
        """What stopped the last round; None while it goes well, and when the pause is over."""
        self.last_error: str | None = None
        self.adopted = 0
        self.settled_bytes = 0
        """Of rows of this process's journal, as JSON."""
        self.settled = threading.Condition()
        self._monotonic = monotonic
        self._own = None if journal is None else Lane(journal)
        self._dead: list[Lane] = []
        self._ended: deque[str] = deque(maxlen=ENDED_KEPT)
        """Journals that ended for good, of which the destination is not told yet."""
        self._wake: SimpleQueue[None] = SimpleQueue()
        """Its ``put`` may be re-entered, by a signal handler that flushes; an ``Event`` would
        deadlock."""
        self._left_alone: set[str] = set()
        self._stopping = False
        self._stop_at = float("inf")
        self._next_adoption = 0.0
        self._has_looked = False
        self._failures = 0
        self._warned: tuple[str, float] = ("", 0.0)
        self._thread = threading.Thread(target=self._run, name="tenantry-shipper", daemon=True)

    # Seen from other threads.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """End the current pause; a back-off as well."""
        self._wake.put(None)

    def stop(self, deadline: float) -> bool:
        """Ship what there is until ``deadline``, then end; True when the thread has ended."""
        self._stop_at = deadline
        self._stopping = True
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - self._monotonic()))
        return not self._thread.is_alive()

    def settled_count(self) -> tuple[int, int]:
        """Give how many records of this process's journal are stored, and how many rejected."""
        if self.journal is None:
            return 0, 0
        return self.journal.books[Slot.STORED], self.journal.books[Slot.REJECTED]

    def lag(self, now: float) -> float:
        """Say for how many seconds the oldest pending row of this journal has waited."""
        if self._own is None:
            return 0.0
        row = oldest_row(list(self._own.journal.segments.values()), self._own.settled)
        return 0.0 if row is None else max(0.0, now - emitted_at(row))

    def has_settled_all(self) -> bool:
        """Say whether nothing of this process's sealed journal is left to ship.

        Exact where counts are not: a line may be written and not counted yet. False also while
        the destination does not know the last counts: an adopter counts a call that never ended.
        """
        if self._own is None:
            return True
        totals = self._own.journal.totals()
        is_told = totals == self._own.totals_sent and is_balanced(totals)
        return is_told and self._own.journal.read(self._own.position, 1) is None

    def abandon_after_fork(self) -> None:
        """In a forked child: close what was inherited, without a word to the server."""
        for lane in self._dead:
            lane.journal.abandon_after_fork()
        abandon = getattr(self.exporter, "abandon", None)
        if abandon is not None:
            abandon()

    # The thread.

    def _run(self) -> None:
        with hidden_from_instrumentation():
            while True:
                last = self._stopping
                try:
                    busy = self._round()
                except Exception as error:  # noqa: BLE001  # the thread outlives whatever it meets
                    log(logging.ERROR, "shipping failed; it is tried again", exc_info=True)
                    self._note_trouble(Retry("backoff", describe(error)))
                    busy = False
                if busy or self._has_looked or self.trouble is not None or last:
                    self._after_round()
                if last and self._may_end(busy=busy):
                    break
                if not busy:
                    self._pause()
            self._finish_own()
            self._close()

    def _round(self) -> bool:
        """Ship one batch of each journal; says whether there may be more at once.

        An idle process pays for the rounds that find nothing: most of them look at no file of other
        processes, and are not followed by what is to be done after a round.
        """
        self._has_looked = self._monotonic() >= self._next_adoption and not self._stopping
        has_news = self._keep_house()
        if self._has_looked:
            self._next_adoption = self._monotonic() + ADOPTION_INTERVAL
            self.adopt_dead()
        busy = has_news and self._own is not None and self._ship(self._own)
        for lane in list(self._dead):
            if self.trouble is not None:
                return False
            if self._ship(lane):
                busy = True
            elif self.trouble is None:
                self._finish_dead(lane)
        return busy and self.trouble is None

    def _keep_house(self) -> bool:
        """Do what this process's journal needs; False where there is surely nothing to ship."""
        if self._own is None or self.journal is None:
            return False
        self.journal.turn_over()
        has_news = self._own.has_news()
        if has_news or self._has_looked:
            self.journal.prepare()
            self.journal.shelf.forget_settled(0.0 if self.root is None else self.retained)
            self.journal.shelf.let_go_unread(self._own.position)
        return has_news

    def adopt_dead(self) -> None:
        """Take over the journals of dead processes, and end the operations that they left open."""
        if self.root is None:
            return
        remove_unfinished(self.root)
        known = {lane.journal.id for lane in self._dead}
        for directory in journal_directories(self.root):
            if directory.name in known or (self.journal and directory.name == self.journal.id):
                continue
            try:
                self._adopt(directory)
            except Exception as error:  # noqa: BLE001  # files from elsewhere hold anything
                if directory.name not in self._left_alone:
                    self._left_alone.add(directory.name)
                    log(
                        logging.WARNING,
                        "the journal %s is left alone: %s",
                        directory,
                        describe(error, kind=False),
                    )

    def _adopt(self, directory: Path) -> None:
        own_type = None if self.journal is None else self.journal.identity.tenant_type
        journal = adopt(directory, destination=self.destination, tenant_type=own_type)
        if journal is None:
            return
        try:
            abandoned = journal.close_operations(make_end)
        except BaseException:
            journal.close(remove=False)  # to be tried again: the disk may be full
            raise
        self.adopted += 1
        log(
            logging.INFO,
            "adopted the journal of %s: %d operations abandoned",
            journal.identity.process,
            abandoned,
        )
        self._dead.append(Lane(journal))

    def _finish_dead(self, lane: Lane) -> None:
        self._dead.remove(lane)
        # Before the files go: who dies in between leaves them to an adopter, who notes it again.
        self._ended.append(lane.journal.id)
        self._note_ended()
        lane.journal.close(remove=True)

    def _finish_own(self) -> None:
        """Note that this process's journal ends here: its files are removed next.

        Not while an operation is open: whoever adopts what a kill leaves would write its end.
        """
        journal = self.journal
        if (
            journal is not None
            and journal.is_sealed
            and not journal.has_open_operations()
            and self.has_settled_all()
        ):
            self._ended.append(journal.id)
        self._note_ended()

    def _note_ended(self) -> None:
        """Tell the destination which journals ended for good; if it cannot be told, no matter."""
        finish = getattr(self.exporter, "finish", _nobody_to_tell)
        try:
            while self._ended:
                deadline = min(self._monotonic() + FINISH_TIMEOUT, self._stop_at)
                if self._monotonic() >= deadline:
                    return
                ended = self._ended.popleft()
                if not finish(ended, deadline):
                    self._ended.appendleft(ended)  # until there is a connection
                    return
        except Exception:  # noqa: BLE001  # an exporter is anybody's code
            log(logging.WARNING, "the end of a journal could not be noted", exc_info=True)

    def _ship(self, lane: Lane) -> bool:
        """Ship one batch; True when one was settled or the position moved."""
        chunk = lane.journal.read(lane.position, lane.batch_bytes)
        has_last_word = chunk is None and self._has_last_word(lane)
        if has_last_word:
            at = lane.settled
            chunk = Chunk(at, at, at.segment, [], [], begins_segment=False, ends_segment=False)
        if chunk is None:
            return False
        batch = make_batch(lane, chunk)
        has_rows = batch.events or batch.rejects or batch.tallies or has_last_word
        # A segment without an event, rotated out: it is settled all the same, so that it can go.
        has_rows = has_rows or (chunk.ends_segment and not lane.journal.is_sealed)
        if not has_rows and not self._ends_with_news(lane, chunk, batch.totals):
            lane.position = chunk.end
            return True
        outcome = self._export(batch)
        if outcome.retry is not None:
            if outcome.retry.smaller:
                lane.shrink(batch)
            self._note_trouble(outcome.retry)
            return False
        self._note_success()
        lane.grow()
        if outcome.resume is not None:
            self._resume(lane, outcome.resume, outcome)
            return True
        lane.journal.settle(chunk.end, stored=outcome.stored, rejected=outcome.rejected)
        lane.go_to(chunk.end)
        if lane is self._own:
            self.settled_bytes += sum(map(len, batch.events)) + sum(map(len, batch.rejects))
        lane.totals_sent = batch.totals
        with self.settled:
            self.settled.notify_all()
        self._note_ended()
        self._after_settling()
        return True

    @staticmethod
    def _has_last_word(lane: Lane) -> bool:
        """Say whether the counters moved after the last batch of a sealed journal.

        So they do when a call was under way in the moment of the seal: told once it has ended.
        """
        if not lane.journal.is_sealed:
            return False
        totals = lane.journal.totals()
        return totals != lane.totals_sent and is_balanced(totals)

    @staticmethod
    def _ends_with_news(lane: Lane, chunk: Chunk, totals: Totals) -> bool:
        """Say whether it is the last of the journal, and the counters moved without any row."""
        journal = lane.journal
        is_last = (
            journal.is_sealed and chunk.ends_segment and chunk.segment == max(journal.segments)
        )
        return is_last and totals != lane.totals_sent

    def _export(self, batch: Batch) -> Outcome:
        deadline = self._monotonic() + EXPORT_TIMEOUT
        try:
            outcome = self.exporter.export(batch, min(deadline, self._stop_at))
        except Exception as error:  # noqa: BLE001  # an exporter is anybody's code
            log(
                logging.ERROR,
                "the exporter %r raised; the batch is kept",
                self.exporter,
                exc_info=True,
            )
            return Outcome(retry=Retry("backoff", describe(error)))
        rows, answered = len(batch.events) + len(batch.rejects), outcome.stored + outcome.rejected
        if outcome.retry is None and outcome.resume is None and answered != rows:
            reason = f"the exporter {self.exporter!r:.80} answered for {answered} of {rows} rows"
            return Outcome(retry=Retry("hold", reason))
        return outcome

    def _resume(self, lane: Lane, actual: Position, outcome: Outcome) -> None:
        """Go to where the destination's cursor is, and take over its counts."""
        log(
            logging.WARNING,
            "the destination stands at %s of the journal %s, not at %s; going on from there",
            tuple(actual),
            lane.journal.id,
            tuple(lane.settled),
        )
        books = lane.journal.books
        if actual.segment <= books[Slot.FORGOTTEN_SEGMENT]:
            # What was stored once and is kept no more cannot be sent again: it is settled.
            known = outcome.stored + outcome.rejected
            lane.uncounted = max(0, books[Slot.FORGOTTEN_ROWS] - known)
        books[Slot.STORED] = outcome.stored + lane.uncounted
        books[Slot.REJECTED] = outcome.rejected
        lane.journal.settle(actual, stored=0, rejected=0)
        lane.go_to(actual)

    # Pauses and trouble.

    def _note_success(self) -> None:
        if self.last_error is not None:
            log(logging.INFO, "shipping goes on after: %s", self.last_error)
        self.trouble = self.last_error = None
        self._failures = 0

    def _note_trouble(self, trouble: Retry) -> None:
        if self.last_error is not None and self._monotonic() >= self._stop_at:
            # Only the time ran out: what went wrong before says more.
            trouble = replace(trouble, reason=self.last_error)
        self.trouble = trouble
        self.last_error = trouble.reason
        self._failures += 1
        if trouble.kind == "soon":
            return
        reason, since = self._warned
        now = self._monotonic()
        if reason == trouble.reason and now - since < REPEAT_WARNING:
            return
        self._warned = (trouble.reason, now)
        log(
            logging.ERROR,
            "events cannot be stored and are kept in %s: %s. %s",
            "memory" if self.root is None else "the journal",
            trouble.reason.rstrip("."),
            trouble.remedy or "They are sent when it is over",
        )

    def _pause(self) -> None:
        if self.trouble is None:
            seconds = self.interval
        elif self.trouble.kind == "hold":
            seconds = HOLD
        else:
            # Full jitter: between nothing and the doubled step, so that many workers spread out.
            longest = LONGEST_SOON if self.trouble.kind == "soon" else LONGEST_BACKOFF
            step = min(longest, FIRST_BACKOFF * 2.0 ** min(self._failures, 10))
            seconds = random.uniform(0.01, step)  # noqa: S311  # jitter, not a secret
        with suppress(Empty):
            self._wake.get(timeout=min(seconds, max(0.01, self._stop_at - self._monotonic())))
            while True:
                self._wake.get_nowait()
        self.trouble = None

    def _may_end(self, *, busy: bool) -> bool:
        """Say, after a round that began when the stop was known, whether it was the last."""
        if self._monotonic() >= self._stop_at:
            return True
        if busy or self.trouble is None:
            return not busy
        # What a file keeps is sent by the next process; what only memory keeps is tried again. One
        # failure is tried again in any case: a connection that idled may have been closed.
        return self.root is not None and (self.trouble.kind == "hold" or self._failures > 1)

    def _close(self) -> None:
        for lane in self._dead:
            lane.journal.close(remove=False)
        self._dead.clear()
        try:
            self.exporter.close()
        except Exception:  # noqa: BLE001  # an exporter is anybody's code
            log(logging.ERROR, "the exporter %r could not be closed", self.exporter, exc_info=True)

    # One pass, without a thread.

    def drain(self, deadline: float) -> bool:
        """Adopt and ship every dead journal in this thread; True when nothing is left of them."""
        with hidden_from_instrumentation():
            self._stop_at = deadline
            self.adopt_dead()
            while self._dead and self._monotonic() < deadline:
                if not self._round() and self._dead:
                    if self.trouble is not None and self.trouble.kind == "hold":
                        break
                    self._pause()
            settled = not self._dead
            self._close()
            return settled


def log(level: int, message: str, *arguments: object, exc_info: bool = False) -> None:
    """Log; whatever a filter or a handler of the application's raises stays here."""
    with suppress(Exception):
        logger.log(level, message, *arguments, exc_info=exc_info)


def describe(error: Exception, *, kind: bool = True) -> str:
    """Say what an exception says; of one that cannot be printed, its type."""
    try:
        return f"{type(error).__name__}: {error}" if kind else str(error)
    except Exception:  # noqa: BLE001  # its own __str__
        return type(error).__name__


def _nobody_to_tell(journal_id: str, deadline: float) -> bool:  # noqa: ARG001  # as Exporter.finish
    return True


def is_balanced(totals: Totals) -> bool:
    """Say whether every event that was numbered is accounted for: no call is under way."""
    rest = totals.handed + totals.sampled_out + sum(totals.dropped.values())
    return totals.emitted == totals.accepted + rest


def make_end(line: Line, last_created_at: str) -> str | None:
    """Make the end of an operation that was left open; None where none can be made."""
    return abandoned_event(line, last_created_at) if line.closing else None
