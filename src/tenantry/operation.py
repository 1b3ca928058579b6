"""Operations: what ``emits(…)`` was given, and that compiled against a pipeline's taxonomy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from tenantry import payload
from tenantry.context import Scope
from tenantry.exceptions import (
    ConfigurationError,
    InvalidEvent,
    InvalidTenant,
    TenantNotSet,
    UnknownOperation,
)
from tenantry.journal import Slot
from tenantry.pipeline import Pipeline
from tenantry.record import closing_json
from tenantry.redaction import Redaction
from tenantry.results import ResultOption, Results
from tenantry.sampling import Sampling
from tenantry.taxonomy import (
    COMPLETED,
    FAILED,
    RESERVED,
    STARTED,
    EventType,
)

OnClose = Literal["completed", "cancelled"]
"""What it means that a generator's consumer stopped early."""

_PHASES_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """The options of one ``emits(…)``."""

    name: str
    actor: str | Callable[..., str] | None = None
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Given by keywords: values."""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Given by ``fields=``: values, or for a decorated function how to take them from a call."""
    result: ResultOption = None
    errors: Mapping[type[BaseException], str] = field(
        default_factory=dict[type[BaseException], str]
    )
    failed_if: Callable[[Any], object] | None = None
    on_close: OnClose = "completed"


class Phases(NamedTuple):
    """What the taxonomy says of an operation."""

    started: EventType | None
    completed: EventType | None
    failed: EventType | None
    is_open: bool
    declared: dict[str, str]
    """Every accepted spelling of a key of any phase, and the field that it means."""
    sampling: Sampling | None
    tails: tuple[str, str]
    """The last members of the lines of the started and of the completed event."""
    closing: str
    """How to close it if its process dies, with the tab before; empty without a failed event."""


def find_phases(name: str, pipeline: Pipeline) -> Phases:
    """Look an operation up in a pipeline's taxonomy, once; raises ``UnknownOperation``."""
    known = pipeline.phases.get(name)
    if known is None:
        known = _make_phases(name, pipeline)
        if len(pipeline.phases) < _PHASES_KEPT:  # names may be made up, where the taxonomy is open
            pipeline.phases[name] = known
    return known


def _make_phases(name: str, pipeline: Pipeline) -> Phases:
    taxonomy = pipeline.taxonomy
    started = taxonomy.phase(name, STARTED)
    completed = taxonomy.phase(name, COMPLETED)
    failed = taxonomy.phase(name, FAILED)
    events = [event for event in (started, completed, failed) if event]
    if not events:
        names = ", ".join(f"{name}_{end}" for end in (*STARTED, *COMPLETED, *FAILED))
        raise UnknownOperation(
            f"the operation {name!r} has no event in the taxonomy: none of {names} is "
            "declared. Declare them, or correct the name given to emits()"
        )
    declared: dict[str, str] = {}
    for event in reversed(events):
        declared.update(event.keys)
    sampling = pipeline.sampling.get(name)
    rate = 1.0 if sampling is None else sampling.rate
    closing = ""
    if failed is not None:
        error_key = failed.error_code_field
        closing = "\t" + closing_json(
            failed.name,
            failed.version,
            _closing_keys(started, failed),
            None if error_key is None else failed.stored_keys[error_key],
        )
    return Phases(
        started,
        completed,
        failed,
        any(event.is_open for event in events),
        declared,
        sampling,
        (tail(started, rate, pipeline), tail(completed, rate, pipeline)),
        closing,
    )


def _closing_keys(started: EventType | None, failed: EventType) -> list[str] | None:
    """List the keys that an abandoned operation takes over from its start; None for all.

    A field that its failed event marks ``Sensitive`` is one only where the start wrote it so.
    """
    if failed.is_open:
        return None
    written = {} if started is None else started.sensitive
    keys = [
        key
        for field, key in failed.stored_keys.items()
        if field not in failed.sensitive or failed.sensitive[field] == written.get(field)
    ]
    wrote = failed if started is None else started
    return None if not wrote.is_open and set(keys).issuperset(wrote.stored_keys.values()) else keys


class BoundOperation:
    """An operation's spec, compiled against the taxonomy of one pipeline."""

    __slots__ = (
        "closing",
        "completed",
        "data",
        "declared",
        "failed",
        "is_checked",
        "is_open",
        "pipeline",
        "results",
        "sampling",
        "spec",
        "started",
        "tails",
        "undeclared",
    )

    def __init__(self, spec: OperationSpec, pipeline: Pipeline) -> None:
        """Look the phases up; raises ``UnknownOperation`` where there are none."""
        self.spec = spec
        self.pipeline = pipeline
        (
            self.started,
            self.completed,
            self.failed,
            self.is_open,
            self.declared,
            self.sampling,
            self.tails,
            self.closing,
        ) = find_phases(spec.name, pipeline)
        given = {**spec.fields, **spec.data}
        self.undeclared = [key for key in given if self.field_of(key) is None]
        if isinstance(spec.result, str) and self.field_of(spec.result) is None:
            self.undeclared.append(spec.result)
        self.is_checked = bool(self.undeclared) or self.sampling is not None
        """Whether there is more to a start than its event."""
        self.data = {
            name: value for key, value in given.items() if (name := self.field_of(key)) is not None
        }
        self.results = Results(spec.result, self.field_of, self.started, self.completed)

    def field_of(self, key: str) -> str | None:
        """Give the field that a key means, in either spelling; None where it is not declared."""
        return self.declared.get(key, key if self.is_open else None)

    def check_undeclared(self, keys: list[str]) -> None:
        """Count and warn of keys given by hand that are not declared; strict mode raises."""
        pipeline = self.pipeline
        message = (
            f"the operation {self.spec.name!r} declares no key "
            f"{shown_keys(keys, pipeline.redaction)}; it declares "
            f"{', '.join(sorted(set(self.declared.values()))) or 'none'}"
        )
        for _ in keys[: payload.MAX_VALUES]:
            pipeline.count(Slot.UNDECLARED, event=False)
        if pipeline.strict:
            raise InvalidEvent(message, reason="undeclared_key")
        pipeline.warn((self.spec.name, *keys[:5]), "%s; it is removed", message)


def shown_keys(keys: Sequence[str], redaction: Redaction) -> str:
    """Name the first few keys; cleaned before they are cut: half a secret is not known as one."""
    return ", ".join(redaction.text(repr(key))[:80] for key in keys[:5])


def closing_at(closing: str, rate: float) -> str:
    """Add the rate of the start to what closes an operation: what is kept of it stands for more."""
    return closing and f'{closing[:-1]},"sample_rate":{rate!r}}}'


def tail(event: EventType | None, rate: float, pipeline: Pipeline) -> str:
    """Write the last members of a line: what is the same for each event of a kind.

    A version or rate of 1 is left out: it is the column's default, and costs the database more to
    read than a column does.
    """
    if rate == 1 and (event is None or event.version == 1):
        return pipeline.tail
    version = "" if event is None or event.version == 1 else f',"event_version":{event.version}'
    sample_rate = "" if rate == 1 else f',"sample_rate":{rate!r}'
    return f"{version}{sample_rate}{pipeline.tail}"


def pick(event: EventType, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the values that may be stored as given: of plain fields, or all of an open event."""
    if event.model is None:
        return values
    return {name: values[name] for name in event.plain_fields if name in values}


def scope_problem(scope: Scope | None) -> Exception:
    """Say why events of a scope are refused; a fresh exception, which keeps no frames alive."""
    if scope is None:
        return TenantNotSet(
            "no tenant is set: emit within `with tenant(…):`, or give emits() tenant=…; events "
            "that belong to no customer go to tenantry.PLATFORM"
        )
    error = scope.error or InvalidTenant("the tenant id is bad")
    return type(error)(str(error))


def raise_for_scope(scope: Scope | None, name: str) -> None:
    """Raise why events of a scope are refused, naming the event or operation."""
    problem = scope_problem(scope)
    raise type(problem)(f"{name}: {problem}")


def reason_of(problem: Exception) -> str:
    """Give the code for ``rejected_events.reason``."""
    if isinstance(problem, TenantNotSet):
        return "tenant_not_set"
    if isinstance(problem, InvalidTenant):
        return "invalid_tenant"
    return getattr(problem, "reason", "invalid")


def refuse_reserved(data: Mapping[str, Any], what: str) -> None:
    """Raise for a data key that is the name of an option."""
    for key in data:
        if key in RESERVED:
            raise ConfigurationError(
                f"{what}: {key!r} is the name of an option, here or in a later version; a data key "
                f"of that name goes through fields={{{key!r}: …}}"
            )
