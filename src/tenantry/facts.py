"""Facts: ``log_event``, one event that is no phase of an operation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from typing import Any, cast

from tenantry import payload
from tenantry.budgets import NOBODY, Budgets
from tenantry.context import (
    Scope,
    canonical_tenant,
    current,
    current_operation,
    make_scope,
    shown,
)
from tenantry.exceptions import ConfigurationError, InvalidEvent, TenantryError, UnknownEvent
from tenantry.interruptions import is_interruption
from tenantry.journal import Slot
from tenantry.operation import (
    pick,
    raise_for_scope,
    reason_of,
    refuse_reserved,
    scope_problem,
    shown_keys,
    tail,
)
from tenantry.pipeline import Pipeline, current_pipeline, warn_unconfigured
from tenantry.record import Kind, derived_id, event_text
from tenantry.redaction import Redaction
from tenantry.taxonomy import COLUMN_KEYS, Event, EventType, OpenEventType
from tenantry.tracing import span_fragment


def log_event(
    event: Event | str,
    /,
    *,
    tenant: Any = None,
    actor: str | None = None,
    conn: Any = None,
    occurred_at: datetime | None = None,
    idempotency_key: str | None = None,
    fields: Mapping[str, Any] | None = None,
    **data: Any,
) -> str | None:
    """Record one event, and give its id, or None when it is not accepted.

    ``event`` is an ``Event`` instance, or a name with its keys as keywords, in snake_case or in the
    camelCase in which they are stored. The tenant is that of the scope, or ``tenant``. Inside an
    operation the event carries ``parent_operation_id``.

    - ``conn``: write it into the caller's own transaction: it commits or rolls back with that.
      Database errors propagate. For an asynchronous connection, see ``alog_event``
    - ``occurred_at``: when it happened, with a time zone; default: now
    - ``idempotency_key``: the id derives from it, so that a replay (of a webhook) is stored once;
      ``occurred_at`` is then required, and must be the same each time
    - ``fields``: data whose keys are option names

    ``error_code`` and ``duration_ms`` fill their columns; they need no declaration. Does not block
    and, but for ``conn``, strict mode and a data key that is an option's name
    (``ConfigurationError``), does not raise: an invalid event is kept in ``rejected_events`` with
    the reason.
    """
    refuse_reserved(data, "log_event()")
    fact = make_fact(event, tenant, actor, occurred_at, idempotency_key, fields, data, conn)
    if fact is None:
        return None
    pipeline, event_id, text = fact
    if conn is not None:
        pipeline.insert(conn, text.encode())
        return event_id
    return event_id if accept(pipeline, text, idempotency_key) else None


async def alog_event(
    event: Event | str,
    /,
    *,
    tenant: Any = None,
    actor: str | None = None,
    conn: Any = None,
    occurred_at: datetime | None = None,
    idempotency_key: str | None = None,
    fields: Mapping[str, Any] | None = None,
    **data: Any,
) -> str | None:
    """Do as ``log_event`` does, with ``conn`` an asynchronous connection or session."""
    refuse_reserved(data, "alog_event()")
    fact = make_fact(event, tenant, actor, occurred_at, idempotency_key, fields, data, conn)
    if fact is None:
        return None
    pipeline, event_id, text = fact
    if conn is not None:
        await pipeline.ainsert(conn, text.encode())
        return event_id
    return event_id if accept(pipeline, text, idempotency_key) else None


def accept(pipeline: Pipeline, text: str, idempotency_key: str | None) -> bool:
    """Append a fact to the journal, and say whether it was taken; raises nothing."""
    kind = Kind.EVENT if idempotency_key is None else Kind.REPEATABLE
    try:
        return pipeline.accept(kind, text)
    except Exception:  # noqa: BLE001  # logged there; telemetry never stops the caller
        pipeline.note_internal_error()
        return False


def make_fact(  # noqa: PLR0917  # the arguments of log_event, in their order
    event: Event | str,
    tenant: Any,
    actor: str | None,
    occurred_at: datetime | None,
    idempotency_key: str | None,
    fields: Mapping[str, Any] | None,
    data: dict[str, Any],
    conn: Any,
) -> tuple[Pipeline, str, str] | None:
    """Validate a fact and write its JSON; None where it is refused, sampled out or goes nowhere."""
    pipeline = current_pipeline()
    if pipeline is None:
        warn_unconfigured()
        return None
    try:
        fact = _Fact(pipeline, event, tenant, actor, data)
        if conn is None:
            fact.budgets = pipeline.budgets
            fact.is_kept = True
        made = fact.make(fields, occurred_at, idempotency_key)
    except Exception as error:
        if pipeline.strict and isinstance(error, TenantryError):
            raise
        pipeline.note_internal_error()
        return None
    return None if made is None else (pipeline, *made)


class _Fact:
    """One ``log_event`` on its way to a line."""

    budgets: Budgets | None = None
    """None where nothing is limited, and for what goes into the caller's own transaction."""
    is_kept = False
    """Whether it goes into the journal."""

    def __init__(
        self,
        pipeline: Pipeline,
        event: Event | str,
        tenant: Any,
        actor: str | None,
        data: dict[str, Any],
    ) -> None:
        self.pipeline = pipeline
        self.event = event
        self.data = data
        # Asked once: pydantic's models answer it with code of their own.
        self.is_instance = type(event) is not str and isinstance(event, Event)
        self.values: dict[str, Any] = dict(event.__dict__) if self.is_instance else {}
        self.undeclared: list[str] = []
        self.columns: dict[str, str] = {}
        self.name = event if isinstance(event, str) else getattr(type(event), "event_name", "")
        scope: Scope | None = current.get()
        if tenant is not None:
            scope = make_scope(tenant, actor, None)
        elif actor is not None and scope is not None:
            scope = scope.with_actor(actor)
        self.scope = scope
        parent = current_operation()
        self.parent_id = None if parent is None else parent.id

    def make(
        self,
        fields: Mapping[str, Any] | None,
        occurred_at: datetime | None,
        idempotency_key: str | None,
    ) -> tuple[str, str] | None:
        """Give the id and the JSON of the event, or reject it."""
        pipeline = self.pipeline
        declared: EventType | None = None
        try:
            declared = self._declared()
            if fields is not None:
                self._add(fields)
            has_given = self._sort(declared)
            fragment = self._fragment()
            created_at = self._created_at(occurred_at, idempotency_key)
            event_id = (
                pipeline.new_id()
                if idempotency_key is None
                else derived_id(
                    created_at, self._tenant_text(), declared.name, str(idempotency_key)
                )
            )
            # Before the costly part, but for strict mode, which looks at each; and for budgets,
            # where what is refused counts for another.
            is_dropped = self.is_kept and pipeline.is_out_of_room
            is_early = is_dropped or (self.budgets is None and not pipeline.strict)
            rate = self._sample(declared, event_id, fragment) if is_early else 1.0
            if not rate:
                return None
            if is_dropped:
                pipeline.drop(declared.name, fragment)
                return None
            data = self._freeze(declared, has_given=has_given)
        except TenantryError as problem:
            if pipeline.strict:
                raise
            self._reject_within_budget(declared, problem)
            return None
        if not is_early:
            rate = self._sample(declared, event_id, fragment)
            if not rate:
                return None
        extra = "".join(self.columns.values()) + (
            span_fragment()
            if self.parent_id is None
            else f'"parent_operation_id":"{self.parent_id}",{span_fragment()}'
        )
        last = tail(declared, rate, pipeline)
        return event_id, event_text(
            event_id, declared.name, fragment, created_at, extra, data, last
        )

    def _fragment(self) -> str:
        """Give the scope's members; raises where there is no tenant, or a bad one."""
        fragment = "" if self.scope is None else self.scope.fragment(self.pipeline.rule)
        if not fragment:
            if self.pipeline.strict:
                raise_for_scope(self.scope, str(self.name))
            raise scope_problem(self.scope)
        return fragment

    def _freeze(self, declared: EventType, *, has_given: bool) -> str:
        limit = self.pipeline.max_payload_bytes
        if self.is_instance and not has_given:
            data, cut = declared.freeze_instance(cast("Event", self.event), limit)
        else:
            data, cut = declared.freeze(self.values, limit)
        if cut:
            self.pipeline.count(Slot.TRUNCATED, event=False)
        return data

    def _sample(self, declared: EventType, event_id: str, fragment: str) -> float:
        """Give the rate at which it is kept, or 0 where it is not, and is counted so."""
        failed = "error_code" in self.columns
        sampling = None if failed else self.pipeline.sampling.get(declared.name)
        if self.budgets is not None:
            sampling = self.budgets.limit(sampling, fragment, declared.name, failed=failed)
        if sampling is None:
            return 1.0
        key = None if sampling.key is None else declared.keys.get(sampling.key, sampling.key)
        value = None if key is None else self.values.get(key)
        if sampling.decide(value, event_id):
            return sampling.rate
        self.pipeline.sample_out()
        return 0.0

    def _add(self, fields: Mapping[str, Any]) -> None:
        """Put ``fields`` behind the keywords, which count for more."""
        try:
            self.data = {**fields, **self.data}
        except Exception as error:  # no mapping, or one whose own methods raise
            if is_interruption(error):
                raise
            raise ConfigurationError(
                f"{self.name}: fields= takes a mapping of keys to values, and the given "
                f"{type(fields).__name__} cannot be read as one"
            ) from None

    def _tenant_text(self) -> str:
        """Give the tenant alone: a replay may have another actor or correlation."""
        scope = self.scope
        return (
            "" if scope is None else str(canonical_tenant(scope.tenant, self.pipeline.tenant_type))
        )

    def _declared(self) -> EventType:
        if not self.is_instance and not isinstance(self.event, str):
            raise UnknownEvent(
                f"log_event() takes an instance of a declared Event, or an event's name with its "
                f"keys, not a value of type {type(self.event).__name__}"
            )
        taxonomy = self.pipeline.taxonomy
        declared = taxonomy.get(str(self.name))
        if self.is_instance and declared.model is not type(self.event):
            raise UnknownEvent(
                f"{type(self.event).__module__}.{type(self.event).__qualname__} is not the class "
                f"that the taxonomy declares for {self.name!r}"
            )
        return declared

    def _sort(self, declared: EventType) -> bool:
        """Sort the given data into fields, columns and undeclared keys, which are removed.

        Says whether there is a value for a field among it.
        """
        values, data = self.values, self.data
        if len(data) > payload.MAX_VALUES:
            raise InvalidEvent(
                f"{self.name}: {len(data)} keys; at most {payload.MAX_VALUES}", reason="too_large"
            )
        has_given = False
        fills_columns = declared.fills_columns
        is_open = isinstance(declared, OpenEventType)
        for key, value in data.items():
            field = declared.keys.get(key, key if is_open else None)
            if field is not None:
                values[field] = value
                has_given = True
            elif key in COLUMN_KEYS:
                fills_columns = True
            else:
                self.undeclared.append(key)
        if fills_columns:
            for key, column in COLUMN_KEYS.items():
                value = values.get(declared.keys.get(key, key), data.get(key))
                if value is not None and column not in self.columns:
                    self.columns[column] = column_member(column, value, self.pipeline.redaction)
        if self.undeclared:
            self._check_undeclared(declared, self.undeclared)
        return has_given

    def _check_undeclared(self, declared: EventType, keys: list[str]) -> None:
        message = (
            f"the event {declared.name!r} declares no key "
            f"{shown_keys(keys, self.pipeline.redaction)}; it declares "
            f"{', '.join(declared.fields) or 'none'}"
        )
        for _ in keys:
            self.pipeline.count(Slot.UNDECLARED, event=False)
        if self.pipeline.strict:
            raise InvalidEvent(message, reason="undeclared_key")
        self.pipeline.warn((declared.name, *keys[:5]), "%s; it is removed", message)

    def _created_at(self, occurred_at: datetime | None, idempotency_key: str | None) -> str:
        pipeline = self.pipeline
        if occurred_at is None:
            if idempotency_key is not None:
                raise InvalidEvent(
                    f"{self.name}: idempotency_key needs occurred_at, the same at each replay: the "
                    "time is part of what makes an event the same",
                    reason="occurred_at_missing",
                )
            return pipeline.now()
        if isinstance(occurred_at, datetime) and occurred_at.utcoffset() is not None:
            try:
                return occurred_at.astimezone(UTC).isoformat(timespec="microseconds")
            except OverflowError:  # in UTC it is before the year 1 or after 9999
                pass
        raise InvalidEvent(
            f"{self.name}: occurred_at={shown(occurred_at)} is no time with a time zone; pass an "
            "aware datetime, as in datetime.now(timezone.utc)",
            reason="occurred_at_invalid",
        )

    def _reject_within_budget(self, declared: EventType | None, problem: Exception) -> None:
        """Refuse it; a flood of such events has the budget of failures, and carries no weight."""
        fragment = "" if self.scope is None else self.scope.fragment(self.pipeline.rule)
        if self.budgets is not None:
            name = "?" if declared is None else declared.name
            sampling = self.budgets.limit(None, fragment or NOBODY, name, failed=True)
            if sampling is not None and not sampling.keeps(self.pipeline.new_id()):
                self.pipeline.sample_out()
                return
        self._reject(declared, problem)

    def _reject(self, declared: EventType | None, problem: Exception) -> None:
        known = {} if declared is None else dict(pick(declared, self.values))
        given = self.data if declared is None else {key: self.data[key] for key in self.undeclared}
        others = {**self.values, **given}
        self.pipeline.reject(
            name=str(self.name) or type(self.event).__name__,
            reason="unknown_event" if isinstance(problem, UnknownEvent) else reason_of(problem),
            detail=getattr(problem, "detail", "") or str(problem),
            scope=self.scope,
            event=declared,
            data={
                (declared.stored_keys.get(key, key) if declared else key): value
                for key, value in known.items()
            },
            other_keys={k: type(v).__name__ for k, v in others.items() if k not in known},
            parent_operation_id=self.parent_id,
        )


def column_member(column: str, value: object, redaction: Redaction) -> str:
    """Write a value that fills a column as a JSON member; raises ``InvalidEvent``."""
    if column == "error_code":
        return f'"error_code":{encode_basestring_ascii(redaction.short_text(value))},'
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15:  # noqa: PLR2004  # 30,000 years
        return f'"duration_ms":{float(value)!r},'
    raise InvalidEvent(
        f"duration_ms, a value of type {type(value).__name__}, is not a duration: milliseconds, "
        "0 or more, as a number",
        reason="invalid",
    )
