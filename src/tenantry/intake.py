"""The intake: what an event meets on the caller's thread, between its validation and the journal.

Owns numbering, counting, refusing and dropping. Does not know where events go from the journal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from tenantry import context, payload
from tenantry.context import Scope, TenantRule, TenantType, safe_text, tenant_of
from tenantry.drops import Drops, News
from tenantry.exceptions import ConfigurationError, InvalidEvent
from tenantry.exporters import Exporter
from tenantry.interruptions import is_interruption
from tenantry.journal import COUNTED, DROP_REASONS, Journal, Slot, close_line
from tenantry.record import Kind, format_line, renumber, whose
from tenantry.redaction import Redaction
from tenantry.report import Drop
from tenantry.shipper import Shipper
from tenantry.taxonomy import EventType

logger = logging.getLogger("tenantry")

WARNING_INTERVAL: Final = 60.0
"""Seconds before a warning of the same kind is logged again."""

_WARNINGS_KEPT: Final = 1000

_SAMPLED_OUT: Final = Slot.SAMPLED_OUT  # to look a member up costs as much as to count one

_GAPS: Final = {
    slot: DROP_REASONS[slot] for slot in (Slot.DROPPED_JOURNAL_FULL, Slot.DROPPED_DISK_FULL)
}
"""Drops that end when there is room again, and are then recorded."""

_GAPS_REPORTED: Final = 100
"""Tenants that get a record of their own of one gap; the rest share one without a tenant."""


class Intake(ABC):
    """The caller's side of a pipeline; nothing in it does network I/O.

    ``Pipeline`` is its only heir: it makes and ends what this uses.
    """

    tenant_type: TenantType
    rule: TenantRule
    strict: bool
    max_payload_bytes: int
    redaction: Redaction
    on_full: Literal["drop", "wait"]
    service: str | None
    environment: str | None
    exporter: Exporter
    now: Callable[[], str]
    new_id: Callable[[], str]
    _journal_max_bytes: int
    _warned: dict[object, float]
    _lock: threading.RLock
    _journal: Journal | None
    _late: Journal | None
    _shipper: Shipper | None
    _on_drop: Callable[[Sequence[Drop]], object] | None
    _drops: Drops
    _untold: News
    _unrecorded: News
    gap_since: str | None
    """When the first event was dropped for want of room; None while there is room."""

    @abstractmethod
    def _begin(self) -> Journal:
        """Open the journal: on the first event of a forked child."""

    @abstractmethod
    def _open_late(self) -> Journal | None:
        """Open the journal of what comes after the shutdown."""

    def accept(self, kind: str, text: str, opens: str = "", closes: str = "") -> bool:
        """Number a row, write its line into the journal, and say whether it was taken.

        ``text`` is what follows the number in the line; ``opens`` and ``closes`` name an operation
        that begins or ends with it.

        An exception that comes into it (of a signal handler, or for want of stack) is raised, and
        the event counted as interrupted unless it was counted already.
        """
        journal = self._journal or self._begin()
        sequence, line = 0, b""
        try:
            # No signal comes between the step of a loop and its assignment, as after next().
            for sequence in journal.sequence:  # noqa: B007  # it is used behind the loop
                break
            line = format_line(kind, sequence, text)
            return journal.append_row(line, opens, closes) or self._retry_append(
                journal, line, kind, sequence, opens or closes
            )
        except BaseException as error:
            # Single calls: there may be no stack left for more.
            if sequence:
                if error.__dict__.get(COUNTED) != id(line):
                    next(journal.books.counts[Slot.DROPPED_INTERRUPTED])
                error.__dict__[COUNTED] = id(line)
            raise

    def open_operation(self, operation_id: str, text: str) -> None:
        """Note that an operation is open whose started event is no row."""
        journal = self._journal or self._begin()
        journal.open_operation(operation_id, format_line(Kind.OPEN, 0, text))

    def close_operation(self, operation_id: str, *, handed: bool = False) -> None:
        """Note that an operation has ended without a terminal row in this journal."""
        journal = self._journal or self._begin()
        line = close_line(operation_id, handed=handed)
        if not journal.close_operation(operation_id, line) and self._late is not None:
            self._late.close_operation(operation_id, line)

    def count(self, slot: Slot, *, event: bool = True) -> None:
        """Count an outcome; ``event`` says that it is one of an event that was emitted."""
        journal = self._journal or self._begin()
        sequence, counted = 0, -1
        try:
            if event:
                for sequence in journal.sequence:  # noqa: B007  # as in accept()
                    break
            for counted in journal.books.counts[slot]:  # noqa: B007  # as in accept()
                break
            journal.books.write(slot, counted + 1, sequence)
        except BaseException as error:
            if sequence:
                if counted < 0:
                    next(journal.books.counts[slot])
                error.__dict__[COUNTED] = 0
            raise

    def sample_out(self) -> None:
        """Count an event that is sampled out."""
        self.count(_SAMPLED_OUT)

    @property
    def is_out_of_room(self) -> bool:
        """Whether what is emitted now is dropped, so that nothing of it need be made.

        A journal may be full for long, and then costs no more than one that takes everything. In
        strict mode an event is checked nevertheless.
        """
        if self.gap_since is None or self.strict or self.on_full == "wait":
            return False
        journal = self._journal
        return journal is not None and journal.is_full

    def drop(self, name: str, scope: str) -> None:
        """Number and count an event that nothing is written of, for want of room."""
        journal = self._journal or self._begin()
        sequence = 0
        try:
            for sequence in journal.sequence:  # noqa: B007  # as in accept()
                break
            self._drop(journal, journal.full_reason, (tenant_of(scope), name), sequence, sequence)
        except BaseException as error:
            if sequence and error.__dict__.get(COUNTED) != sequence:
                next(journal.books.counts[Slot.DROPPED_INTERRUPTED])
                error.__dict__[COUNTED] = sequence
            raise

    def _retry_append(
        self, journal: Journal, line: bytes, kind: str, sequence: int, operation_id: str = ""
    ) -> bool:
        """Find a place for a line that the journal refused, or count it as dropped."""
        if (
            self.on_full == "wait"
            and not journal.is_sealed
            and self._wait_for_room(journal, line, kind, operation_id)
        ):
            return True
        if journal.is_sealed:
            return self._append_late(journal, line, kind, sequence, operation_id)
        self._drop(journal, journal.full_reason, whose(line), sequence, id(line))
        return False

    def _wait_for_room(self, journal: Journal, line: bytes, kind: str, operation_id: str) -> bool:
        """Wait for the shipper to make room, a second at most, and never inside an event loop."""
        if asyncio._get_running_loop() is not None:  # noqa: SLF001  # the public one raises
            return False
        shipper = self._shipper
        deadline = time.monotonic() + 1.0
        while shipper is not None and (left := deadline - time.monotonic()) > 0:
            shipper.wake()
            with shipper.settled:
                shipper.settled.wait(min(left, 0.1))
            if _write(journal, line, kind, operation_id):
                return True
            if journal.is_sealed:
                return False
        return False

    def _append_late(
        self, journal: Journal, line: bytes, kind: str, sequence: int, operation_id: str
    ) -> bool:
        """Keep an event emitted after the shutdown in a journal that the next process adopts."""
        with self._lock:
            late = self._open_late()
        if late is not None:
            number, moved = 0, b""
            try:
                for number in late.sequence:  # noqa: B007  # as in accept()
                    break
                moved = renumber(line, kind, number)
                if _write(late, moved, kind, operation_id):
                    journal.move_number()
                    return True
            except BaseException as error:
                if error.__dict__.get(COUNTED) == id(moved):
                    journal.move_number()
                    error.__dict__[COUNTED] = id(line)
                elif number:
                    late.move_number()
                raise
            late.move_number()  # it is counted here, under its first number
        self._drop(journal, Slot.DROPPED_SHUT_DOWN, whose(line), sequence, id(line))
        return False

    def _drop(
        self,
        journal: Journal,
        slot: Slot,
        whom: tuple[str | None, str | None],
        sequence: int,
        mark: int,
    ) -> None:
        """Count an event of a tenant and name as dropped, and warn.

        ``mark`` tells it from others on an exception that comes in between.
        """
        counted = -1
        try:
            for counted in journal.books.counts[slot]:  # noqa: B007  # as in accept()
                break
            journal.books.write(slot, counted + 1, sequence)
            if self.gap_since is None and slot in _GAPS:
                self.gap_since = self.now()
            self._drops.add(slot, *whom)
            self._warn_dropped(journal, slot)
        except BaseException as error:
            if counted >= 0:
                error.__dict__[COUNTED] = mark
            raise

    def _warn_dropped(self, journal: Journal, slot: Slot) -> None:
        if slot is Slot.DROPPED_SHUT_DOWN:
            self.warn(
                "late", "events emitted after shutdown() are dropped: no journal file keeps them"
            )
            return
        if self._is_warned(slot):
            return
        self.warn(
            slot,
            "events are dropped (%s): the journal in %s has no room: %s. Its limit is %d bytes "
            "(journal_max_bytes); is the database away? %s",
            slot.name.removeprefix("DROPPED_").lower(),
            journal.directory or "memory",
            journal.full_error,
            self._journal_max_bytes,
            (self._shipper and self._shipper.last_error) or "",
        )

    def _report_gap(self) -> None:
        """Record, once there is room again, what was dropped, and since when: a row a tenant."""
        if self.gap_since is None or self._journal is None or not self._journal.has_room():
            return
        since, self.gap_since = self.gap_since, None
        names: dict[str | None, dict[str, int]] = {}
        reasons: dict[str | None, set[str]] = {}
        for drop in self._unrecorded.take():
            if drop.reason in _GAPS.values():
                tenant = drop.tenant_id if len(names) < _GAPS_REPORTED else None
                counts = names.setdefault(tenant, {})
                counts[drop.name or "?"] = counts.get(drop.name or "?", 0) + drop.count
                reasons.setdefault(tenant, set()).add(drop.reason)
        for tenant, counts in names.items():
            why = ", ".join(sorted(reasons[tenant]))
            self.reject(
                name=None,
                reason="gap",
                detail=f"{sum(counts.values())} events were dropped since {since}: {why}",
                tenant_id=tenant,
                data=counts,
            )

    def _tell_drops(self) -> None:
        """Tell the application's callback what was dropped since it was last told."""
        if self._on_drop is None or not self._untold:
            return
        try:
            self._on_drop(self._untold.take())
        except Exception:
            logger.exception(
                "on_drop=%r raised; it is called again with the next drops", self._on_drop
            )

    def reject(
        self,
        *,
        name: str | None,
        reason: str,
        detail: str,
        scope: Scope | None = None,
        tenant_id: str | None = None,
        phase: str | None = None,
        event: EventType | None = None,
        data: Mapping[str, Any] | None = None,
        other_keys: Mapping[str, str] | None = None,
        operation_id: str | None = None,
        parent_operation_id: str | None = None,
        closes: bool = False,
    ) -> None:
        """Keep an event that cannot be recorded, with the reason, in ``rejected_events``.

        ``data`` holds the values of declared keys of ``event``; of others, ``other_keys`` has name
        and type.
        """
        text = self.redaction.text
        detail = text(detail)
        row: dict[str, Any] = {
            "id": self.new_id(),
            "tenant_id": tenant_id if scope is None else _tenant_text(scope, self.rule),
            "name": None if name is None else safe_text(text(name)),
            "phase": phase,
            "event_version": None if event is None or event.is_open else event.version,
            "created_at": self.now(),
            "reason": reason,
            "detail": safe_text(detail) if len(detail) < context.TEXT_LIMIT else _clip(detail),
            "data": self._rejected_data(event, data or {}),
            "other_keys": {
                safe_text(text(key)): kind for key, kind in list((other_keys or {}).items())[:50]
            },
            "operation_id": operation_id,
            "parent_operation_id": parent_operation_id,
            "service": None if self.service is None else safe_text(self.service),
            "environment": None if self.environment is None else safe_text(self.environment),
        }
        line = payload.to_json({key: value for key, value in row.items() if value is not None})
        self.accept(Kind.REJECT, line.decode())
        if closes and operation_id is not None:
            self.close_operation(operation_id)
        self.warn(
            ("reject", name, reason),
            "the event %s is refused (%s) and kept in rejected_events: %s",
            name or "?",
            reason,
            detail,
        )

    def _rejected_data(self, event: EventType | None, data: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in list(data.items())[: payload.MAX_VALUES]:
            try:
                kept[safe_text(key)] = payload.plain(value, self.redaction)
            except InvalidEvent:
                kept[safe_text(key)] = f"<{type(value).__name__}>"
        try:
            written = payload.to_json(kept)
            if event is not None:
                written = event.redact(written, self.max_payload_bytes)
            fitted: dict[str, Any] = json.loads(payload.fit(written, self.max_payload_bytes)[0])
        except (InvalidEvent, ValueError, RecursionError):
            return {
                self.redaction.text(key): f"<{type(value).__name__}>"
                for key, value in list(kept.items())[:50]
            }
        return fitted

    # The caller's own transaction.

    def insert(self, conn: object, event_json: bytes) -> None:
        """Write an event into the caller's transaction; its errors are the caller's to see."""
        insert = getattr(self.exporter, "insert", None)
        if insert is None:
            raise ConfigurationError(
                f"conn= needs an exporter that writes to PostgreSQL, not {self.exporter!r:.80}"
            )
        try:
            insert(conn, event_json)
        except BaseException:
            self._drop_handed(event_json)
            raise
        self.count(Slot.HANDED)

    async def ainsert(self, conn: object, event_json: bytes) -> None:
        """Write an event into the caller's transaction on an asynchronous connection."""
        insert = getattr(self.exporter, "ainsert", None)
        if insert is None:
            raise ConfigurationError(
                f"conn= needs an exporter that writes to PostgreSQL, not {self.exporter!r:.80}"
            )
        try:
            await insert(conn, event_json)
        except BaseException:
            self._drop_handed(event_json)
            raise
        self.count(Slot.HANDED)

    def _drop_handed(self, event_json: bytes) -> None:
        self.count(Slot.DROPPED_HANDOVER_FAILED)
        self._drops.add(Slot.DROPPED_HANDOVER_FAILED, *whose(event_json))

    # Warnings and troubles of our own.

    def warn(self, key: object, message: str, *arguments: object) -> None:
        """Log a warning, at most once a minute for each key."""
        if self._is_warned(key):
            return
        if len(self._warned) >= _WARNINGS_KEPT:
            self._warned.clear()
        self._warned[key] = time.monotonic()
        with suppress(Exception):  # a filter of the application's may raise
            clean = self.redaction.text
            logger.warning(message, *(clean(a) if isinstance(a, str) else a for a in arguments))

    def _is_warned(self, key: object) -> bool:
        return time.monotonic() - self._warned.get(key, float("-inf")) < WARNING_INTERVAL

    def note_internal_error(self) -> None:
        """Log an error of our own, with its traceback, and count the event as dropped, once.

        Raises again what is none: an interruption.
        """
        error = sys.exception()
        if error is not None and is_interruption(error):
            raise error
        with suppress(Exception):  # telemetry never raises into the caller
            if error is None or error.__dict__.pop(COUNTED, None) is None:
                self.count(Slot.DROPPED_INTERNAL_ERROR)
            now = time.monotonic()
            if now - self._warned.get("internal", float("-inf")) >= 1.0:
                self._warned["internal"] = now
                # Types and lines, but no texts of exceptions: those may hold what was to be stored.
                logger.error(
                    "an event was lost to an error inside Tenantry; please report it: %s\n%s",
                    type(error).__name__,
                    "".join(traceback.format_tb(None if error is None else error.__traceback__)),
                )


def _write(journal: Journal, line: bytes, kind: str, operation_id: str) -> bool:
    """Append a row by its kind."""
    return journal.append_row(
        line,
        operation_id if kind == Kind.START else "",
        operation_id if kind == Kind.END else "",
    )


def _tenant_text(scope: Scope, rule: TenantRule) -> str | None:
    """Give the canonical text of a scope's tenant; None when the id is bad."""
    fragment = scope.fragment(rule)
    return str(json.loads(f"{{{fragment[:-1]}}}")["tenant_id"]) if fragment else None


def _clip(text: str) -> str:
    return context.safe_text(text[: context.TEXT_LIMIT - 1]) + "…"
