"""The pipeline: one configured instance of all this, and all global state, in one honest file.

Global are: the configured pipeline, the pipeline that a ``with`` block made current, what takes the
place of both in tests, and the set of live pipelines, which the fork and exit hooks walk.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Self

from uuid_utils import uuid7

from tenantry import context, payload
from tenantry.budgets import Budgets
from tenantry.context import TENANT_TYPES, TenantRule, TenantType, safe_text
from tenantry.drops import Drops, News, make_drops
from tenantry.exceptions import (
    AlreadyConfigured,
    ConfigurationError,
    JournalUnavailable,
    MissingExtra,
)
from tenantry.exporters import Exporter
from tenantry.exporters.memory import MemoryExporter
from tenantry.intake import Intake
from tenantry.journal import Identity, Journal, Slot, local_process
from tenantry.keys import read_keys
from tenantry.options import (
    check_at_least,
    check_callable,
    check_choice,
    check_sampling,
    read_budgets,
)
from tenantry.record import Clock, make_now
from tenantry.redaction import Redact, Redaction
from tenantry.registry import Taxonomy, load_taxonomy
from tenantry.report import Drop, FlushReport, Stats
from tenantry.sampling import Budget, Sampling
from tenantry.shipper import Shipper
from tenantry.taxonomy import Event

logger = logging.getLogger("tenantry")


class Pipeline(Intake):
    """Taxonomy, journal, shipper and exporter, working together.

    ``configure()`` makes the one that a process usually has. Make others for tests, or for several
    applications in one process; ``with pipeline:`` makes one current for the block (by contextvar).
    It begins to work when made, and ends with ``shutdown()``, at the latest at exit.

    Options are those of ``configure()``; here nothing is read from the environment, and the journal
    is kept in memory unless a directory is given. ``clock`` and ``new_id`` are for tests.
    """

    def __init__(  # noqa: PLR0915  # it makes all that a pipeline is made of
        self,
        *,
        dsn: str | None = None,
        exporter: Exporter | None = None,
        service: str | None = None,
        environment: str | None = None,
        taxonomy: str | ModuleType | Taxonomy | Iterable[type[Event]] | None = None,
        open_taxonomy: str | Iterable[str] = (),
        journal: str | os.PathLike[str] | None = None,
        tenant_type: TenantType = "uuid",
        schema: str = "tenantry",
        strict: bool = False,
        sampling: Mapping[str, Sampling] | None = None,
        budgets: Iterable[Budget] = (),
        fair_share: bool = True,
        durability: Literal["process", "power"] = "process",
        on_full: Literal["drop", "wait"] = "drop",
        journal_max_bytes: int = 256 * 1024 * 1024,
        max_payload_bytes: int = payload.MAX_BYTES,
        ship_interval: float = 0.25,
        shutdown_timeout: float = 5.0,
        on_drop: Callable[[Sequence[Drop]], object] | None = None,
        signing_keys: Mapping[str, str | bytes] | None = None,
        redaction_keys: Mapping[str, str | bytes] | None = None,
        secret_names: Iterable[str] = (),
        detect: bool = True,
        redact: Redact | None = None,
        clock: Clock | None = None,
        new_id: Any = None,
    ) -> None:
        """Check the options, open the journal and start the shipper."""
        for option, value, choices in (
            ("tenant_type", tenant_type, TENANT_TYPES),
            ("durability", durability, ("process", "power")),
            ("on_full", on_full, ("drop", "wait")),
        ):
            check_choice(option, value, choices)
        for option, number, least in (
            ("journal_max_bytes", journal_max_bytes, 4 * 1024 * 1024),
            ("max_payload_bytes", max_payload_bytes, 64),
            ("ship_interval", ship_interval, 0.001),
            ("shutdown_timeout", shutdown_timeout, 0),
        ):
            check_at_least(option, number, least)
        check_sampling(sampling)
        self._given_budgets = read_budgets(budgets)
        check_callable("on_drop", on_drop)
        self.tenant_type: TenantType = tenant_type
        self.strict = strict
        self.rule = TenantRule(tenant_type, strict)
        self.redaction = Redaction(
            keys=redaction_keys, secret_names=secret_names, detect=detect, redact=redact
        )
        self.taxonomy = load_taxonomy(taxonomy, open_taxonomy, self.redaction)
        self.sampling = dict(sampling or {})
        self.max_payload_bytes = max_payload_bytes
        self.durability: Literal["process", "power"] = durability
        self.on_full = on_full
        self.shutdown_timeout = shutdown_timeout
        self.signing_keys = read_keys("signing_keys", {} if signing_keys is None else signing_keys)
        """Of ``inject`` and ``extract``, by their ids; the first signs."""
        self.service = service
        self.environment = environment
        self._embedded: Any = None
        self.exporter = exporter or self._make_exporter(dsn, schema)
        clock = clock or Clock()
        self.time_ns = clock.time_ns
        self.now = make_now(clock.time_ns)
        self.perf_counter_ns = clock.perf_counter_ns
        self.new_id = new_id or _new_id
        self.tail = self._make_tail()
        self._root = None if journal is None else Path(journal)
        self._journal_max_bytes = journal_max_bytes
        self._ship_interval = ship_interval
        self._warned: dict[object, float] = {}
        self.phases: dict[str, Any] = {}
        """What `tenantry.operation` found in the taxonomy, by the name of the operation."""
        self._lock = threading.RLock()
        """Guards the next four. Re-entered by signal handlers; nothing is logged under it."""
        self._shut_down = False
        self._journal: Journal | None = None
        self._late: Journal | None = None
        self._shipper: Shipper | None = None
        self._on_drop = on_drop
        self._begin_drops()
        self._fair_share = fair_share
        self._begin_budgets()
        self._stop_sync = threading.Event()
        self._check_ready()
        self._begin()
        if isinstance(self.exporter, MemoryExporter):
            self.exporter.flush_with(self.flush)
        _pipelines.add(self)
        importlib.import_module("tenantry.metrics").register(_read_all)
        # Last registered is first called: before the embedded server's own hook stops it.
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)

    # Making.

    def _make_exporter(self, dsn: str | None, schema: str) -> Exporter:
        if not dsn:
            raise ConfigurationError(
                "there is nowhere to send events: pass dsn=… (or set TENANTRY_DSN) for PostgreSQL, "
                "dsn='embedded' to try it out, or exporter=…"
            )
        # By name: only a pipeline that ships to PostgreSQL may load psycopg.
        if dsn == "embedded":
            embedded = importlib.import_module("tenantry.database.embedded")
            migrate = importlib.import_module("tenantry.database.migrate")
            self._embedded = embedded.start()
            dsn = str(self._embedded.dsn)
            migrate.migrate(dsn, schema=schema, tenant_type=self.tenant_type)
        try:
            postgres = importlib.import_module("tenantry.exporters.postgres")
        except ImportError as error:
            if "libpq" in str(error) or "psycopg" in str(error):
                raise MissingExtra("the PostgreSQL exporter", "binary") from error
            raise
        made: Exporter = postgres.PostgresExporter(dsn, schema=schema, tenant_type=self.tenant_type)
        return made

    def _check_ready(self) -> None:
        """See that there is a key where values are to be hashed; strict mode asks the exporter."""
        hashed = [
            f"{event.name}.{field}"
            for event in self.taxonomy
            for field, marks in event.sensitive.items()
            if any(mark.how == "hash" for mark in marks)
        ]
        if hashed and not self.redaction.has_key:
            if self.strict:
                raise ConfigurationError(
                    f'{", ".join(hashed[:5])}: marked Sensitive("hash"), and there is no key. Give '
                    "configure() redaction_keys={id: secret}, or set TENANTRY_REDACTION_KEYS"
                )
            self.redaction.warn_of_no_key()
        check = getattr(self.exporter, "check", None)
        if self.strict and check is not None:
            check(time.monotonic() + self.shutdown_timeout)

    def _make_tail(self) -> str:
        members: dict[str, str] = {}
        if self.service is not None:
            members["service"] = safe_text(self.service)
        if self.environment is not None:
            members["environment"] = safe_text(self.environment)
        return "," + json.dumps(members, separators=(",", ":"))[1:-1] if members else ""

    def _begin_drops(self) -> None:
        self._drops = Drops()
        self._untold = News(self._drops)
        self._unrecorded = News(self._drops)
        self.gap_since: str | None = None

    def _begin_budgets(self) -> None:
        self._limits = Budgets(self._given_budgets, self.sampling, self.perf_counter_ns)
        self.budgets = self._limits if self._given_budgets else None
        """What limits events now; None while nothing does."""

    def _note_room(self, journal: Journal) -> None:
        """See whether the journal is short of room: then no tenant gets more than its share."""
        if self._fair_share:
            free = journal.shelf.free_bytes()
            self._limits.press(free if free < journal.shelf.max_bytes / 2 else None)
            self.budgets = self._limits if self._limits.is_needed else None

    def _after_rotation(self, journal: Journal) -> None:
        """Look at the room at once where this process may be what takes it.

        To look is to list the files of all processes; the shipper does that in each round anyway.
        """
        if journal.shelf.unsettled_bytes() > journal.shelf.max_bytes / 8:
            self._note_room(journal)

    def _after_round(self) -> None:
        """Do on the shipper's thread what is to be done now and then."""
        self._tell_drops()
        if (journal := self._journal) is not None:
            with suppress(OSError, ValueError):  # it cannot be read just now, or was just closed
                self._note_room(journal)
        limited = self._limits.list_limited() if self._limits.is_needed else {}
        if limited:
            self.warn(
                "limited",
                "more is emitted than %s: it is sampled, and counts right when each row is weighed "
                "by 1 / sample_rate. At the lowest rates: %s",
                "the budgets allow" if self._given_budgets else "the journal has room for",
                ", ".join(f"{key} {rate:.3g}" for key, rate in list(limited.items())[:5]),
            )

    def _begin(self) -> Journal:
        """Open the journal and start the shipper: when made, and again in a forked child."""
        with self._lock:
            if (begun := self._journal) is not None:
                return begun
            journal, problem = self._open_journal()
            shipper = Shipper(
                self.exporter,
                journal,
                root=journal.root,
                destination=journal.identity.destination,
                interval=self._ship_interval,
                after_settling=self._report_gap,
                after_round=self._after_round,
            )
            if (begun := self._journal) is not None:  # a signal handler emitted meanwhile
                journal.close(remove=True)
                return begun
            self._journal, self._shipper = journal, shipper
        if problem is not None:
            logger.error(
                "%s. Events are kept in MEMORY until they are sent: those not sent when this "
                "process dies are lost",
                problem,
            )
        try:
            shipper.start()
            if self.durability == "power" and journal.root is not None:
                threading.Thread(
                    target=self._sync, args=(journal,), name="tenantry-sync", daemon=True
                ).start()
        except RuntimeError:  # the interpreter ends, or the system has no thread left
            logger.exception("nothing can be shipped; events stay in %s", journal.directory)
        return journal

    def _open_journal(self) -> tuple[Journal, JournalUnavailable | None]:
        """Open a journal; in memory, with the problem, where none can be kept in files."""
        destination = getattr(self.exporter, "fingerprint", type(self.exporter).__qualname__)
        identity = Identity(self.service, str(destination), self.tenant_type, local_process())
        make = partial(
            Journal,
            identity=identity,
            journal_id=_new_id(),
            max_bytes=self._journal_max_bytes,
            after_rotation=self._after_rotation,
        )
        try:
            return make(self._root), None
        except JournalUnavailable as error:
            if self.strict or self._root is None:
                raise
            return make(None), error

    def _sync(self, journal: Journal) -> None:
        stop = self._stop_sync
        while not stop.wait(0.05):
            try:
                journal.shelf.sync()
            except OSError as error:
                if not stop.is_set():  # else it was closed under us
                    self.warn(
                        "sync", "the journal %s is not synced to disk: %s", journal.directory, error
                    )

    # Current.

    def __enter__(self) -> Self:
        entered = self if configured is None or self not in _replaced else configured
        tokens = (current.set(entered), context.bind_rule(entered.rule))
        _entered.set((*_entered.get(), tokens))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not _entered.get():
            return  # left in another context than it was entered in: nothing is current here
        *outer, (token, rule_token) = _entered.get()
        _entered.set(tuple(outer))
        context.reset_rule(rule_token)
        context.leave(current, token)

    def _open_late(self) -> Journal | None:
        """Open the journal of what comes after the shutdown; None where only memory is left."""
        if self._late is None and self._root is not None:
            try:
                late, _ = self._open_journal()
            except JournalUnavailable:
                late = None
            if late is None or late.root is None:
                self._root = None  # no file can be had: it is not tried for each event
            else:
                self._late = late
        return self._late

    # Flushing and ending.

    def flush(self, timeout: float = 5.0) -> FlushReport:
        """Wait until everything accepted before the call is stored or rejected.

        Blocks at most ``timeout`` seconds, whatever the database does. The report is true when it
        is all settled; what is not stays in the journal.
        """
        journal, shipper = self._journal, self._shipper
        if journal is None or shipper is None:
            return self._report(settled=True)
        late = 0 if self._late is None else self._late.totals().accepted
        target = journal.totals().accepted + late
        deadline = time.monotonic() + timeout
        shipper.wake()
        with shipper.settled:
            while sum(shipper.settled_count()) < target:
                left = deadline - time.monotonic()
                if left <= 0 or self._shut_down:
                    break
                shipper.settled.wait(min(left, 0.05))
        return self._report(settled=sum(shipper.settled_count()) >= target)

    async def aflush(self, timeout: float = 5.0) -> FlushReport:  # noqa: ASYNC109  # as flush()
        """Do as ``flush`` does, without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    def shutdown(self, timeout: float | None = None) -> FlushReport:
        """Ship what is there, within ``timeout`` seconds (default: ``shutdown_timeout``), and end.

        Idempotent. What cannot be sent in time stays in the journal for the next process. Events
        emitted later go into a journal of their own, which the next process ships.
        """
        with self._lock:
            if self._shut_down:
                return self._report(settled=self._report_pending() == 0)
            self._shut_down = True
            journal, shipper = self._journal, self._shipper
            self._stop_sync.set()
            if journal is None or shipper is None:
                return self._report(settled=True)
            journal.seal()
            # Whoever is still within an operation ends it later, or never: the next process sees.
            late = self._open_late() if journal.has_open_operations() else None
            if late is not None:
                journal.hand_over(late)
        limit = self.shutdown_timeout if timeout is None else timeout
        ended = shipper.stop(time.monotonic() + limit)
        report = self._report(settled=sum(shipper.settled_count()) >= journal.totals().accepted)
        if ended:
            journal.close(remove=shipper.has_settled_all())
        if self._embedded is not None:
            self._embedded.stop()
        return report

    async def ashutdown(self, timeout: float | None = None) -> FlushReport:  # noqa: ASYNC109
        """Do as ``shutdown`` does, without blocking the event loop."""
        return await asyncio.to_thread(self.shutdown, timeout)

    def stats(self) -> Stats:
        """Read the counters of this process, its lag, and the sizes of its directory's files."""
        books = self._books()
        journal, shipper = self._journal, self._shipper
        if journal is None or shipper is None:
            return books
        retained, rest = journal.shelf.used_bytes()
        return replace(
            books,
            lag=shipper.lag(self.time_ns() / 1e9) if books.pending else 0.0,
            journal_bytes=retained + rest,
            retained_bytes=retained,
        )

    def _books(self) -> Stats:
        journal, shipper = self._journal, self._shipper
        if journal is None or shipper is None:
            return Stats(
                mode="memory" if self._root is None else "journal",
                durability=self.durability,
                directory=self._root,
                journal_max_bytes=self._journal_max_bytes,
            )
        stored, rejected = shipper.settled_count()
        totals = journal.totals()
        late = 0 if self._late is None else self._late.totals().accepted
        return Stats(
            mode="memory" if journal.root is None else "journal",
            durability=self.durability,
            directory=journal.root,
            emitted=totals.emitted + late,
            accepted=totals.accepted + late,
            handed=totals.handed,
            sampled_out=totals.sampled_out,
            dropped=totals.dropped,
            drops=make_drops(self._drops.totals()),
            stored=stored,
            rejected=rejected,
            truncated=journal.books.current(Slot.TRUNCATED),
            undeclared=journal.books.current(Slot.UNDECLARED),
            adopted=shipper.adopted,
            error=shipper.last_error,
            settled_bytes=shipper.settled_bytes,
            journal_max_bytes=self._journal_max_bytes,
        )

    def _report(self, *, settled: bool) -> FlushReport:
        stats = self._books()
        return FlushReport(
            settled, stats.stored, stats.rejected, stats.pending, stats.mode, stats.error
        )

    def _report_pending(self) -> int:
        return self._books().pending

    @property
    def is_shut_down(self) -> bool:
        """Whether ``shutdown`` was called."""
        return self._shut_down

    def after_fork_in_child(self) -> None:
        """Leave everything to the parent; the next event begins a journal of this process's own."""
        journals, shipper = (self._journal, self._late), self._shipper
        self.rule = TenantRule(self.tenant_type, self.strict)  # see Scope.fragment
        self._lock = threading.RLock()
        self._stop_sync = threading.Event()
        self._journal = self._late = self._shipper = None
        self._embedded = None
        self._begin_drops()
        self._begin_budgets()
        self._shut_down = False
        for journal in journals:
            if journal is not None:
                journal.abandon_after_fork()
        if shipper is not None:
            shipper.abandon_after_fork()


def _new_id() -> str:
    return str(uuid7())


# Global state.

configured: Pipeline | None = None
_configured_with: dict[str, Any] = {}
current: ContextVar[Pipeline | None] = ContextVar("tenantry_pipeline", default=None)
_entered: ContextVar[tuple[tuple[Token[Pipeline | None], Token[TenantRule | None]], ...]] = (
    ContextVar("tenantry_entered", default=())
)
"""What to undo at the end of each ``with`` block of this context: threads enter independently."""
_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()
_configuring = threading.Lock()
_warned_unconfigured = False


def current_pipeline() -> Pipeline | None:
    """Give the pipeline that events emitted here go to: the block's, else the configured one."""
    return current.get() or configured


def warn_unconfigured() -> None:
    """Say once that events are emitted before ``configure()`` and go nowhere."""
    global _warned_unconfigured  # noqa: PLW0603  # once a process
    if not _warned_unconfigured:
        _warned_unconfigured = True
        logger.warning(
            "an event was emitted before tenantry.configure(): it and its like go nowhere. Call "
            "configure() when the application starts"
        )


_stand_in: Callable[[Mapping[str, Any]], Pipeline] | None = None
_replaced: weakref.WeakSet[Pipeline] = weakref.WeakSet()
"""The pipelines that a stand-in takes the place of: those that were there before it."""


@contextmanager
def stand_in(make: Callable[[Mapping[str, Any]], Pipeline]) -> Generator[None]:
    """For tests: have pipelines of ``make``'s in the place of all that there are.

    For the whole process, whatever the thread or the context. ``make`` is called with the options
    of the last ``configure()``, or with none, and again at each ``configure()`` within the block. A
    pipeline made by ``Pipeline(…)`` within it stays itself. Blocks nest.
    """
    global configured, _configured_with, _stand_in, _replaced  # noqa: PLW0603  # all of it, at once
    with _configuring:
        before = configured, _configured_with, _stand_in, _replaced
        made = make(_configured_with)
        _replaced = weakref.WeakSet(pipeline for pipeline in _pipelines if pipeline is not made)
        configured, _stand_in = made, make
        rule = context.set_default_rule(made.rule)
    token, rule_token = current.set(None), context.bind_rule(None)
    try:
        yield
    finally:
        context.reset_rule(rule_token)
        context.leave(current, token)
        with _configuring:
            configured, _configured_with, _stand_in, _replaced = before
            context.set_default_rule(rule)


def configure_with(options: dict[str, Any]) -> Pipeline:
    """Make the pipeline of this process, or give it where it was made with the same options.

    Raises ``AlreadyConfigured`` where it was made with others, and what ``Pipeline`` raises.
    """
    global configured, _configured_with  # this is where they are set
    with _configuring:
        if configured is not None and not configured.is_shut_down:
            # A stand-in may be here before anything was configured.
            missing = object()
            known = _configured_with
            different = [key for key in options if options[key] != known.get(key, missing)]
            if not different:
                return configured
            if _stand_in is None:
                raise AlreadyConfigured(
                    "configure() was called before with other settings of: "
                    f"{', '.join(different)}. Configure once, where the application starts; for "
                    "another pipeline beside it, use Pipeline(…)"
                )
        pipeline = Pipeline(**options) if _stand_in is None else _stand_in(options)
        context.set_default_rule(pipeline.rule)
        configured, _configured_with = pipeline, options
        return pipeline


def _read_all() -> list[Stats]:
    return [pipeline.stats() for pipeline in list(_pipelines)]


def _after_fork_in_child() -> None:
    global _configuring  # noqa: PLW0603  # a fork is a process-wide fact
    _configuring = threading.Lock()
    for pipeline in list(_pipelines):
        pipeline.after_fork_in_child()


def _at_exit() -> None:
    for pipeline in list(_pipelines):
        if not pipeline.is_shut_down:
            pipeline.shutdown()


os.register_at_fork(after_in_child=_after_fork_in_child)
