"""Upkeep of the table of events: which months are due to be made, detached or dropped; doing so.

Each step is a transaction of its own, so that it may be interrupted and run again at any time, and
beside others. A step that cannot be done is told, and the others are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

import psycopg
from psycopg import sql

from tenantry.database.connect import DeadlineConnection
from tenantry.database.installed import Installed
from tenantry.database.partitions import (
    Layout,
    Made,
    Stray,
    make_month,
    months_ahead,
    read_layout,
    read_strays,
)
from tenantry.database.rejected import Rejects, Selection
from tenantry.database.retention import Detached, count, detach, drop, read_detached
from tenantry.database.short_locks import ShortLocks, StillLocked
from tenantry.exceptions import DatabaseError

LEDGER_SINCE: Final = 7
"""The migration that lets the ledger take these lines."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for."""

    ahead: int = 24
    """Months to have ready beside the current one."""
    keep: str | None = None
    """How long events and rejects are kept, as an interval of PostgreSQL; None is for ever."""
    drop_after: float | None = None
    """Seconds for which a detached month is kept; None is for ever.

    With 0 as well, what is detached in one run is dropped in the next at the earliest.
    """


@dataclass(frozen=True, slots=True)
class Gone:
    """A month that was detached or dropped; ``rows`` is None where nobody has counted."""

    table: str
    rows: int | None


@dataclass(slots=True)
class Upkeep:
    """What was done; with ``dry_run``, what would be."""

    made: list[Made] = field(default_factory=list[Made])
    detached: list[Gone] = field(default_factory=list[Gone])
    dropped: list[Gone] = field(default_factory=list[Gone])
    discarded: int = 0
    """Rejected events that were older than what is kept."""
    kept_detached: list[Gone] = field(default_factory=list[Gone])
    """Detached months that are still there."""
    strays: list[Stray] = field(default_factory=list[Stray])
    """Rows that stay in DEFAULT."""
    problems: list[str] = field(default_factory=list[str])
    """Steps that were not done, why, and what to do."""
    until: datetime | None = None
    """Where the partitions end."""


class Caretaker:
    """Keeps up one schema over one connection in autocommit mode, as a maintainer.

    ``lock_timeout`` is for how many seconds others may have to wait for one attempt at a lock, and
    ``timeout`` for how many attempts are made. Making, detaching and dropping needs the owner.
    """

    def __init__(
        self,
        connection: DeadlineConnection,
        schema: str,
        installed: Installed,
        *,
        lock_timeout: float,
        timeout: float,
    ) -> None:
        """Keep the connection; nothing is read yet."""
        self._connection = connection
        self._schema = schema
        self._installed = installed
        self._timeout = timeout
        self._locks = ShortLocks(connection, lock_timeout, time.monotonic() + timeout)

    def survey(self, wishes: Wishes) -> Upkeep:
        """Say what `keep_up` would do; changes nothing, and needs no owner."""
        layout, strays = self._read(wishes)
        due = _months_due(layout, strays, wishes)
        rows = {stray.month: stray.rows for stray in strays}
        found = Upkeep(
            made=[Made(f"events_{month:%Y_%m}", rows.get(month, 0)) for month in due],
            strays=[stray for stray in strays if stray.month not in due],
            until=_end(layout),
        )
        cutoff = self._cutoff(wishes)
        if cutoff is not None:
            found.detached = [Gone(name, None) for name in _too_old(layout, cutoff)]
            counts = self._rejects().count(Selection(until=cutoff))
            found.discarded = sum(each.retryable + each.other for each in counts)
        for each in self._read_detached():
            is_due = _is_due(each, layout, wishes)
            (found.dropped if is_due else found.kept_detached).append(Gone(each.name, each.rows))
        return found

    def keep_up(
        self, wishes: Wishes, on_progress: Callable[[int, int], object] = lambda _done, _total: None
    ) -> Upkeep:
        """Make the months that are due, then detach, drop and discard what is too old."""
        done = Upkeep()
        layout, strays = self._read(wishes)
        cutoff = self._cutoff(wishes)
        if self._may_change(layout, strays, wishes, cutoff, done):
            due = _months_due(layout, strays, wishes)
            for number, month in enumerate(due):
                on_progress(number, len(due))
                made = self._step(
                    done,
                    f"events_{month:%Y_%m} was not attached",
                    partial(make_month, self._locks, self._schema, month),
                )
                done.made += [made] if made is not None else []
            on_progress(len(due), len(due))
            if due:
                layout, strays = self._read(wishes)
            self._detach(done, layout, cutoff)
            self._drop(done, layout, wishes)
        done.strays, done.until = strays, _end(layout)
        if cutoff is not None:
            done.discarded = self._rejects().discard(Selection(until=cutoff))
        done.kept_detached = [Gone(each.name, each.rows) for each in self._read_detached()]
        return done

    def _detach(self, done: Upkeep, layout: Layout, cutoff: datetime | None) -> None:
        for name in _too_old(layout, cutoff) if cutoff is not None else ():
            self._step(
                done,
                f"{name} was not detached",
                partial(detach, self._locks, self._schema, name),
            )
        for each in self._read_detached():
            if each.rows is not None:
                continue  # counted before; the others are of now, or of a session that was cut off
            rows = self._step(
                done,
                f"{each.name} is detached, and was not counted",
                partial(count, self._locks, self._schema, each),
            )
            done.detached += [Gone(each.name, rows)] if rows is not None else []

    def _drop(self, done: Upkeep, layout: Layout, wishes: Wishes) -> None:
        for each in self._read_detached():
            if not _is_due(each, layout, wishes):
                continue
            rows = self._step(
                done,
                f"{each.name} was not dropped",
                partial(drop, self._locks, self._schema, each),
            )
            done.dropped += [Gone(each.name, rows)] if rows is not None else []

    def _may_change(
        self,
        layout: Layout,
        strays: Sequence[Stray],
        wishes: Wishes,
        cutoff: datetime | None,
        done: Upkeep,
    ) -> bool:
        """Say whether anything is due that the role may do; what it may not is a problem."""
        due = [
            *(f"events_{month:%Y_%m} to be made" for month in _months_due(layout, strays, wishes)),
            *(f"{name} to be detached" for name in (_too_old(layout, cutoff) if cutoff else ())),
            *(
                f"{each.name} to be {'dropped' if each.rows is not None else 'counted'}"
                for each in self._read_detached()
                if each.rows is None or _is_due(each, layout, wishes)
            ),
        ]
        if not due:
            return False
        if not layout.may_change:
            user = self._installed.user
            grant = sql.SQL("GRANT {} TO {};").format(
                sql.Identifier(layout.owner), sql.Identifier(user)
            )
            done.problems.append(
                f"Changes of partitions are due ({due[0]}; {len(due)} in all), and {user!r} may "
                f"not make them: {layout.owner} owns the tables. Run it as {layout.owner}, or as "
                f"somebody who may grant it: {grant.as_string(None)}"
            )
            return False
        if 0 < self._installed.version < LEDGER_SINCE:
            done.problems.append(
                f"Changes of partitions are due ({due[0]}; {len(due)} in all), and the ledger of "
                f"this schema takes no lines of them. Run: tenantry migrate --schema {self._schema}"
            )
            return False
        return True

    def _step(self, done: Upkeep, failure: str, work: Callable[[], _Result]) -> _Result | None:
        """Take one step; what hinders it, short of a lost connection, becomes a problem."""
        if not done.problems:
            # Else one attempt each: who holds up one step holds up most of the others.
            self._locks.deadline = time.monotonic() + self._timeout
        try:
            return work()
        except StillLocked:
            why = (
                f"its locks could not be had within {self._timeout:g} s{self._holders()}. Look in "
                "pg_stat_activity for long transactions, and run it again"
            )
        except psycopg.errors.QueryCanceled:
            why = (
                f"it would have held others up for more than {self._locks.lock_timeout:g} s. Run "
                "it in a quiet hour with a longer --lock-timeout"
            )
        except psycopg.errors.DuplicateTable:
            why = (
                "a table of that name is there, and is no partition. Rename it, or attach it "
                "yourself"
            )
        except psycopg.errors.CheckViolation as error:
            why = (
                f"rows in DEFAULT stand against it: {error.diag.message_primary}. Where foreign "
                "keys of other tables lead to events, rows are not moved: drop the keys for the "
                "time being"
            )
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            why = f"the database answered {error.sqlstate}: {error.diag.message_primary}"
        done.problems.append(f"{failure}: {why}.")
        return None

    def _holders(self) -> str:
        """Name sessions that hold locks on events or its partitions, for a message."""
        rows = self._connection.execute(
            _HOLDERS, {"schema": self._schema, "names": "^events(_|$)"}
        ).fetchall()
        return f" (process {', '.join(str(pid) for (pid,) in rows)} holds some)" if rows else ""

    def _read(self, wishes: Wishes) -> tuple[Layout, list[Stray]]:
        def work() -> tuple[Layout, list[Stray]]:
            layout = read_layout(self._connection, self._schema)
            return layout, read_strays(self._connection, self._schema, layout, wishes.ahead)

        return self._look(work)

    def _read_detached(self) -> list[Detached]:
        return self._look(lambda: read_detached(self._connection, self._schema))

    def _look(self, work: Callable[[], _Result]) -> _Result:
        try:
            return self._locks.run(work, alone=False)
        except StillLocked as error:
            raise DatabaseError(
                f"The table of events could not be read within {self._timeout:g} s"
                f"{self._holders()}: another session keeps it locked. Look in pg_stat_activity for "
                "long transactions, and run it again"
            ) from error

    def _cutoff(self, wishes: Wishes) -> datetime | None:
        if wishes.keep is None:
            return None
        row = self._connection.execute(
            "SELECT pg_catalog.clock_timestamp() - CAST(%s AS interval)", [wishes.keep]
        ).fetchone()
        return None if row is None else row[0]

    def _rejects(self) -> Rejects:
        return Rejects(self._connection, self._schema, self._installed)


def _months_due(layout: Layout, strays: Sequence[Stray], wishes: Wishes) -> list[datetime]:
    """Give the months that are missing: those ahead, and those of rows that are in DEFAULT."""
    wanted = {
        *months_ahead(layout.now, wishes.ahead),
        *(stray.month for stray in strays if stray.month is not None),
    }
    return layout.missing(sorted(wanted))


def _too_old(layout: Layout, cutoff: datetime) -> list[str]:
    """Give the partitions that end before the cutoff; the current month never does."""
    return [each.name for each in layout.partitions if each.end <= min(cutoff, layout.now)]


def _is_due(detached: Detached, layout: Layout, wishes: Wishes) -> bool:
    return wishes.drop_after is not None and (
        layout.now - detached.at >= timedelta(seconds=wishes.drop_after)
    )


def _end(layout: Layout) -> datetime | None:
    return layout.partitions[-1].end if layout.partitions else None


_HOLDERS: Final = """
    SELECT DISTINCT locks.pid
      FROM pg_catalog.pg_locks AS locks
      JOIN pg_catalog.pg_class ON pg_class.oid = locks.relation
      JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = pg_class.relnamespace
     WHERE nspname = %(schema)s AND relname ~ %(names)s AND relkind IN ('r', 'p')
       AND locks.granted AND locks.pid <> pg_backend_pid()
       AND locks.database = (SELECT pg_database.oid FROM pg_catalog.pg_database
                              WHERE datname = current_database())
     ORDER BY locks.pid LIMIT 5
"""
