"""For tests of applications: the events of a test, and times and ids that it can foresee.

The pytest plug-in is `pytest_tenantry`, a module beside the package: pytest imports plug-ins before
coverage is measured, and importing anything in here imports ``tenantry``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Final, overload

from pydantic.alias_generators import to_camel
from pydantic_core import to_jsonable_python

from tenantry.context import canonical_tenant
from tenantry.exceptions import InvalidTenant
from tenantry.exporters.memory import MemoryExporter
from tenantry.pipeline import Pipeline, stand_in
from tenantry.record import Clock, Record, Reject
from tenantry.registry import Taxonomy
from tenantry.report import FlushReport
from tenantry.taxonomy import Event

_SECOND: Final = 1_000_000_000

_SHOWN: Final = 30
"""Events that a failure lists."""

_COLUMNS: Final = frozenset(field.name for field in fields(Record)) - {"name", "data"}
_OPTIONS: Final = {"tenant": "tenant_id", "actor": "actor_id", "correlation": "correlation_id"}
"""The options of ``log_event`` by the columns that they fill. They are never keys of data."""

_APPLICATIONS_OWN: Final = (
    *("service", "environment", "taxonomy", "open_taxonomy", "tenant_type", "max_payload_bytes"),
    *("signing_keys", "redaction_keys", "secret_names", "detect", "redact"),
)
"""Options of ``configure()`` that hold in a test as well. Of the others, a test has its own: where
events go, and that all are kept."""

_TEST_KEY: Final = {"test": "a key of 32 bytes, for tests only"}


class FrozenClock(Clock):
    """A clock that stands still until ``tick``; it starts at 2026-01-01 00:00 UTC by default."""

    def __init__(self, seconds: float = 1_767_225_600) -> None:
        """Set it to ``seconds`` since the epoch."""
        self._now = round(seconds * _SECOND)
        self._elapsed = 0

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self._now += round(seconds * _SECOND)
        self._elapsed += round(seconds * _SECOND)

    def set(self, when: datetime) -> None:
        """Set the time of day, with a time zone; durations are not touched."""
        if when.utcoffset() is None:
            raise ValueError(
                f"the clock cannot be set to {when!r}: it has no time zone. Pass an aware datetime"
            )
        since = when - datetime(1970, 1, 1, tzinfo=UTC)
        self._now = (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1000

    def set_back(self, seconds: float) -> None:
        """Correct the time of day, as NTP does; durations are not touched."""
        self._now -= round(seconds * _SECOND)

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._now

    def perf_counter_ns(self) -> int:
        """Nanoseconds that have passed."""
        return self._elapsed


class SequentialIds:
    """Makes UUIDs that count from 1: ``00000000-0000-7000-8000-000000000001`` and so on."""

    def __init__(self) -> None:
        """Begin."""
        self._made = 0

    def __call__(self) -> str:
        """Give the next."""
        self._made += 1
        return f"00000000-0000-7000-8000-{self._made:012x}"


class CapturedEvents(Sequence[Record]):
    """The events that were emitted since the capture began, in order: a list of records.

    Every look waits for what is pending. Where events are looked for, a name is text or an
    ``Event`` class, and keywords are what the event must have: ``phase``, ``error_code`` and the
    other columns, ``tenant``, ``actor`` and ``correlation`` as ``log_event`` takes them, and keys
    of its data in snake_case or camelCase. A data key that is a column's name goes through
    ``data={…}``. Values are compared as they are stored: a UUID or a date is its text.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._pipelines: list[_TestPipeline] = []
        self._seen_rejects = False

    @property
    def records(self) -> list[Record]:
        """The events, in order of emission."""
        return [record for each in self._pipelines for record in each.memory.records]

    @property
    def names(self) -> list[str]:
        """The names of the events, in order."""
        return [record.name for record in self.records]

    @property
    def rejected(self) -> list[Reject]:
        """The events refused so far, in order; whoever reads it answers for them."""
        self._seen_rejects = True
        return self._rejects()

    def filter(
        self,
        name: str | type[Event] | None = None,
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> list[Record]:
        """Give the events of that name, or of any, that have what is expected."""
        return self._find(None if name is None else _name(name), {**expected}, data or {})

    def one(
        self,
        name: str | type[Event],
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> Record:
        """Give the only event of that name that has what is expected; fails if it is not one."""
        __tracebackhide__ = True
        found = self.assert_emitted(name, data=data, **expected)
        if len(found) > 1:
            raise AssertionError(
                f"expected one event {_wanted(_name(name), expected, data or {})}, and "
                f"{len(found)} were emitted\n{self.describe()}"
            )
        return found[0]

    def assert_emitted(
        self,
        name: str | type[Event],
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> list[Record]:
        """Give the events of that name that have what is expected; fails if there is none."""
        __tracebackhide__ = True
        wanted, data = _name(name), data or {}
        found = self._find(wanted, expected, data)
        if not found:
            raise AssertionError(self._explain_missing(wanted, expected, data))
        return found

    def assert_not_emitted(
        self,
        name: str | type[Event],
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> None:
        """Fail if there is an event of that name that has what is expected."""
        __tracebackhide__ = True
        wanted, data = _name(name), data or {}
        if found := self._find(wanted, expected, data):
            raise AssertionError(
                f"expected no event {_wanted(wanted, expected, data)}, and {len(found)} were "
                f"emitted\n{self.describe()}"
            )

    def clear(self) -> None:
        """Forget what was emitted and refused so far."""
        for each in self._pipelines:
            each.memory.clear()

    def describe(self) -> str:
        """List what was emitted, and what was refused and why; a line an event."""
        records, rejects = self.records, self._rejects()
        lines = [f"emitted: {len(records) or 'nothing'}"]
        lines += [
            f"  {number} {_line(record)}" for number, record in enumerate(records[:_SHOWN], 1)
        ]
        if len(records) > _SHOWN:
            lines.append(f"  and {len(records) - _SHOWN} more")
        if rejects:
            lines.append(f"refused: {len(rejects)}")
            lines += [f"  {_reject_line(reject)}" for reject in rejects[:_SHOWN]]
        return "\n".join(lines)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __contains__(self, item: object) -> bool:
        """Whether an event of that name, a class or a record, is among them."""
        if isinstance(item, (str, type)):
            return _name(item) in self.names
        return item in self.records

    def __repr__(self) -> str:
        return f"<{len(self)} events captured: {', '.join(self.names) or 'none'}>"

    # Kept by `capture`.

    def _make(self, options: Mapping[str, Any]) -> _TestPipeline:
        made = _TestPipeline(**options)
        self._pipelines.append(made)
        return made

    def _end(self) -> None:
        for each in self._pipelines:
            each.end()

    def _rejects(self) -> list[Reject]:
        return [reject for each in self._pipelines for reject in each.memory.rejected]

    def _raise_refused(self) -> None:
        """Fail for what strict mode could not raise: the end of an operation never raises."""
        __tracebackhide__ = True
        refused = [] if self._seen_rejects else self._rejects()
        if refused and any(each.strict for each in self._pipelines):
            lines = "\n".join(f"  {_reject_line(reject)}" for reject in refused[:_SHOWN])
            raise AssertionError(
                f"events were refused: {len(refused)}. In production they would be kept in "
                f"rejected_events, and missing among the events:\n{lines}\nCorrect them; a test "
                "that means them to be refused reads `rejected`"
            )

    # Finding.

    def _find(
        self, name: str | None, expected: Mapping[str, Any], data: Mapping[str, Any]
    ) -> list[Record]:
        return [
            record
            for record in self.records
            if name in {None, record.name} and not self._differences(record, expected, data)
        ]

    def _differences(
        self, record: Record, expected: Mapping[str, Any], data: Mapping[str, Any]
    ) -> list[str]:
        """Say what of a record is not as expected, a line for each key."""
        found: list[str] = []
        given = [
            (key, value, key in _COLUMNS or key in _OPTIONS) for key, value in expected.items()
        ]
        given += [(key, value, False) for key, value in data.items()]
        for key, value, is_column in given:
            column = _OPTIONS.get(key, key)
            stored = key if key in record.data else to_camel(key)
            actual = getattr(record, column) if is_column else record.data.get(stored)
            wanted = self._tenant(value) if is_column and column == "tenant_id" else value
            if not _is_equal(actual, wanted):
                got = f"got {actual!r}" if is_column or stored in record.data else "missing"
                found.append(f"{key}: expected {value!r}, {got}")
        return found

    def _tenant(self, value: Any) -> Any:
        try:
            return canonical_tenant(value, self._pipelines[-1].tenant_type)
        except InvalidTenant:
            return value  # something that compares equal, as unittest.mock.ANY does

    def _explain_missing(
        self, name: str, expected: Mapping[str, Any], data: Mapping[str, Any]
    ) -> str:
        head = f"no event {_wanted(name, expected, data)} was emitted"
        candidates = [record for record in self.records if record.name == name]
        if candidates:
            compared = [(self._differences(each, expected, data), each) for each in candidates]
            differences, nearest = min(compared, key=lambda each: len(each[0]))
            number = next(n for n, each in enumerate(self.records, 1) if each is nearest)
            lines = "\n".join(f"    {difference}" for difference in differences)
            head += f"\nnearest: {number} {_line(nearest)}\n{lines}"
        elif close := get_close_matches(name, self.names, n=1):
            head += f"; did you mean {close[0]}?"
        return f"{head}\n{self.describe()}"


class _TestPipeline(Pipeline):
    """A pipeline whose events stay in memory, and that outlives the application's shutdown."""

    def __init__(self, **options: Any) -> None:
        self.memory = MemoryExporter()
        super().__init__(exporter=self.memory, **options)

    def shutdown(self, timeout: float | None = None) -> FlushReport:
        """Flush only: an application that ends within a test may begin anew in the same test."""
        return self.flush(self.shutdown_timeout if timeout is None else timeout)

    def end(self) -> None:
        """Shut down."""
        super().shutdown()


@contextmanager
def capture(
    taxonomy: str | ModuleType | Taxonomy | Iterable[type[Event]] | None = None,
    *,
    strict: bool = True,
    **options: Any,
) -> Generator[CapturedEvents]:
    """Keep the events of a block in memory, and send them nowhere else; gives them.

    What the application passes to ``configure()``, before the block or within it, holds for what
    its events look like: taxonomy, tenant type, redaction, service. Where they would go, sampling
    and the journal do not matter: no database is needed, and every event is kept. ``taxonomy`` and
    ``options``, those of ``Pipeline``, count for more: ``clock=FrozenClock()`` and
    ``new_id=SequentialIds()`` make times and ids foreseeable.

    Strict by default: a mistake raises where it is made. What could not raise, the refused end of
    an operation, fails at the end of the block, unless ``rejected`` was read.

    Holds for the whole process, so for threads, event loops and tasks that were there before, and
    for a configured pipeline that the application kept. Not for processes that it starts, nor for a
    ``Pipeline`` that is made within the block. Blocks nest, but those of two threads must not
    overlap.
    """
    given = {"strict": strict, **options}
    if taxonomy is not None:
        given["taxonomy"] = taxonomy
    events = CapturedEvents()

    def make(configured: Mapping[str, Any]) -> Pipeline:
        kept = {
            key: configured[key] for key in _APPLICATIONS_OWN if configured.get(key) is not None
        }
        return events._make({"redaction_keys": _TEST_KEY, **kept, **given})  # its own

    try:
        with stand_in(make):
            yield events
        events._raise_refused()  # noqa: SLF001
    finally:
        events._end()  # noqa: SLF001


def explain_comparison(op: str, left: object, right: object) -> list[str] | None:
    """Say for pytest what was captured, where ``assert name in events`` fails."""
    if op in {"in", "not in"} and isinstance(right, CapturedEvents):
        return [f"{left!r} {op} captured events", *right.describe().splitlines()]
    return None


def _name(name: object) -> str:
    if isinstance(name, type) and issubclass(name, Event) and name.event_name:
        return name.event_name
    if isinstance(name, str):
        return name
    raise TypeError(
        f"{name!r:.80} is no name of an event; pass its name, or the Event class that declares it"
    )


def _is_equal(actual: object, expected: object) -> bool:
    if bool(actual == expected):
        return True
    return bool(actual == to_jsonable_python(expected, fallback=lambda value: value))


def _wanted(name: str, expected: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{key}={value!r}" for key, value in {**expected, **data}.items())
    return f"{name} with {keys}" if keys else name


def _line(record: Record) -> str:
    """Show a record: its name, what of its columns says most, and its data."""
    columns = ", ".join(
        f"{key}={value!r}"
        for key in ("tenant_id", "actor_id", "error_code")
        if (value := getattr(record, key)) is not None
    )
    data = ", ".join(f"{key}={value!r:.80}" for key, value in record.data.items())
    return f"{record.name} [{columns}] {data}".rstrip()


def _reject_line(reject: Reject) -> str:
    return f"{reject.name or '?'}: {reject.reason}: {reject.detail}"
