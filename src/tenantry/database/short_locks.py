"""Locks that others hardly notice: asked for a short time, then left to those behind, then again.

Knows nothing of what is done under them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
from psycopg import sql

from tenantry.database.connect import DeadlineConnection

_Result = TypeVar("_Result")

LOCK_KEY: Final = 0x7061727469746E73
"""The bytes of "partitns", as the key of the advisory lock that one change of partitions holds."""

WORK_TIMEOUT: Final = 6 * 3600.0
"""Seconds that work may take for which nobody waits: moving and counting rows."""

POLL: Final = 0.1
"""Seconds between two looks at a lock, about."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


class StillLocked(TimeoutError):
    """No attempt got its locks before the deadline."""


class _InOtherHands(Exception):
    """Another session holds the advisory lock."""


@dataclass(slots=True)
class ShortLocks:
    """Runs work in transactions that never make others wait for long."""

    connection: DeadlineConnection
    lock_timeout: float
    """Seconds that one attempt waits for a lock, with others waiting behind it."""
    deadline: float
    """``time.monotonic()`` after which no further attempt is made."""
    sleep: Callable[[float], object] = time.sleep

    def run(self, work: Callable[[], _Result], *, alone: bool = True) -> _Result:
        """Run ``work`` in a transaction of its own, again from the start until it has its locks.

        ``alone``: one session at a time does so in a database. Raises ``StillLocked`` at the
        deadline.
        """
        for pause in _pauses():
            try:
                with self._transaction():
                    if alone:
                        self._be_alone()
                    return work()
            except (
                psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected,
                _InOtherHands,
            ) as error:
                if time.monotonic() + pause >= self.deadline:
                    raise StillLocked from error
            self.sleep(pause)
        raise AssertionError  # the pauses never end

    def run_inside(self, work: Callable[[], _Result], *, patience: float) -> _Result:
        """Run ``work`` in a savepoint of the current transaction, again for ``patience`` seconds.

        Between two attempts no lock is held that the transaction did not hold before.
        """
        give_up = min(self.deadline, time.monotonic() + patience)
        for pause in _pauses():
            try:
                with self.connection.transaction():
                    return work()
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() + pause >= give_up:
                    raise
            self.sleep(pause)
        raise AssertionError  # the pauses never end

    def limit(self, *, wait: float, work: float) -> None:
        """Limit the next statements of the transaction: seconds of waiting for a lock, and in all.

        For what is done while others wait. 0 seconds of ``work`` are without a limit.
        """
        self.connection.execute(self.limits(wait=wait, work=work))

    def limits(self, *, wait: float, work: float) -> sql.Composed:
        """Compose what ``limit`` runs, to go with other statements."""
        return sql.SQL(
            "SET LOCAL lock_timeout = {wait}; SET LOCAL statement_timeout = {work}"
        ).format(
            wait=sql.Literal(_milliseconds(wait)),
            work=sql.Literal(_milliseconds(work) if work else "0"),
        )

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self.connection.deadline = time.monotonic() + WORK_TIMEOUT
        with self.connection.transaction():
            self.connection.execute(
                sql.SQL(_BEGIN).format(limits=self.limits(wait=self.lock_timeout, work=0))
            )
            yield

    def _be_alone(self) -> None:
        # Polled: who waits for an advisory lock holds a snapshot for as long. Not a session's
        # lock, which the clients of a pooler would share.
        row = self.connection.execute(
            "SELECT pg_catalog.pg_try_advisory_xact_lock(%s)", [LOCK_KEY]
        ).fetchone()
        if row is None or not row[0]:
            raise _InOtherHands


def let_others_pass() -> None:
    """Pause between two looks at a lock that another has; with jitter, so that no two keep in step.

    Looked at and not waited for: who waits in the server holds a snapshot, and others behind it.
    """
    time.sleep(random.uniform(0.5, 1.5) * POLL)  # noqa: S311  # jitter, no secret


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"  # 0 would be for ever


def _pauses() -> Generator[float]:
    """Give the seconds to pause between attempts: full jitter, so that no two keep in step."""
    longest = _FIRST_PAUSE
    while True:
        yield random.uniform(0, longest)  # noqa: S311  # jitter, no secret
        longest = min(2 * longest, _LONGEST_PAUSE)


# Read committed, whatever the server's default: what others store meanwhile must be seen. The
# path, because who may create functions in a schema that it names could have them called here.
_BEGIN: Final = """
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL timezone = 'UTC';
    SET LOCAL datestyle = 'ISO, YMD';
    {limits};
    SET LOCAL idle_in_transaction_session_timeout = 0
"""
