"""What is current, in contextvars: tenant, actor, correlation, and the operation.

Knows nothing of events or of pipelines; a pipeline tells it only what type tenant ids have and
whether to be strict. How scopes are entered and left is in `tenantry.scopes`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from tenantry.exceptions import InvalidTenant, TenantNotSet
from tenantry.interruptions import is_interruption

TenantType = Literal["uuid", "bigint", "text"]
TENANT_TYPES: Final[tuple[TenantType, ...]] = ("uuid", "bigint", "text")

TEXT_LIMIT: Final = 200
"""Characters kept of an actor, a correlation id or an error code; and the longest text tenant."""

DEPTH_LIMIT: Final = 1000
"""Scopes that are kept for being around another one. More are no blocks: bindings without a reset,
or tasks that each start the next."""

_UNSAFE = re.compile("[\0\ud800-\udfff]")
_BIGINT_MAX: Final = 2**63 - 1


class PlatformTenant:
    """The type of ``PLATFORM``."""

    def __repr__(self) -> str:
        return "PLATFORM"

    def __reduce__(self) -> str:
        return "PLATFORM"


PLATFORM: Final = PlatformTenant()
"""The reserved tenant of events that belong to no customer.

Stored as the nil UUID, as 0, or as ``_platform``, by the type of tenant ids. Those values given by
hand are refused, so that an id that was never set does not land here by accident.
"""

_PLATFORM_IDS: Final[dict[TenantType, str | int]] = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "bigint": 0,
    "text": "_platform",
}


def canonical_tenant(value: object, tenant_type: TenantType) -> str | int:
    """Give the one stored form of a tenant id.

    uuid: lower-case text with hyphens, from ``uuid.UUID`` or any text that it reads. bigint: an int
    from 1 to 2**63 - 1, or its decimal text. text: 1 to 200 characters, none of them a control
    character. Raises ``InvalidTenant``.
    """
    if type(value) is PlatformTenant:
        return _PLATFORM_IDS[tenant_type]
    canonical: str | int | None
    try:
        canonical = _READERS[tenant_type](value)
    except Exception as error:
        if is_interruption(error):
            raise
        canonical = None  # the value's own methods: an id that cannot be read is a bad one
    if canonical is None:
        raise InvalidTenant(
            f"{shown(value)} ({type(value).__name__}) is not a tenant id: tenant ids are "
            f"{_EXPECTED[tenant_type]}. Pass such an id, or set tenant_type in configure() to the "
            "type that the migrations were run with"
        )
    if canonical == _PLATFORM_IDS[tenant_type]:
        raise InvalidTenant(
            f"the tenant id {shown(value)} is reserved for events that belong to no customer; "
            "pass tenantry.PLATFORM if that is meant"
        )
    return canonical


_EXPECTED: Final[dict[TenantType, str]] = {
    "uuid": "UUIDs (uuid.UUID, or its text)",
    "bigint": "integers from 1 to 9223372036854775807",
    "text": "printable text of 1 to 200 characters",
}


def _uuid_text(value: object) -> str | None:
    # Other UUID classes (uuid_utils') derive from nothing common, but print the same.
    if isinstance(value, (str, UUID)) or type(value).__name__ == "UUID":
        return str(UUID(str(value)))
    return None


def _bigint(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:  # noqa: PLR2004  # 2**63 has 19 digits
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _BIGINT_MAX:
        return int(value)
    return None


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    text = str.__str__(value)  # of an enum member that is text, the text
    return text if 0 < len(text) <= TEXT_LIMIT and text.isprintable() else None


_READERS: Final[dict[TenantType, Callable[[object], str | int | None]]] = {
    "uuid": _uuid_text,
    "bigint": _bigint,
    "text": _text,
}


def safe_text(value: object) -> str:
    """Make short text that a text column takes: no NUL, no lone surrogate, 200 characters.

    Raises nothing: a value that cannot say its text gives its type.
    """
    try:
        text = str(value)
    except Exception as error:
        if is_interruption(error):
            raise
        text = f"<{type(value).__name__}>"
    return _UNSAFE.sub("\ufffd", text[:TEXT_LIMIT])


def shown(value: object) -> str:
    """Show a value in an error's text: its repr, cut to 80 characters; raises nothing."""
    try:
        return f"{value!r:.80}"
    except Exception as error:
        if is_interruption(error):
            raise
        return f"<{type(value).__name__}>"


class UnknownTenant:
    """Stands for a tenant id that could not be had; always a bad one, and never the scope's."""

    def __init__(self, why: str) -> None:
        """Keep the reason, which is its repr."""
        self._why = why

    def __repr__(self) -> str:
        return self._why


@dataclass(frozen=True, slots=True)
class TenantRule:
    """What a pipeline demands of tenant ids; each process has objects of its own."""

    tenant_type: TenantType = "uuid"
    strict: bool = False


_default_rule = TenantRule()
_rule: ContextVar[TenantRule | None] = ContextVar("tenantry_tenant_rule", default=None)


def set_default_rule(rule: TenantRule) -> TenantRule:
    """Set the rule of the configured pipeline; gives the one before."""
    global _default_rule  # the process has one configured pipeline
    before, _default_rule = _default_rule, rule
    return before


def current_rule() -> TenantRule:
    """Give the rule of the pipeline that events emitted here go to."""
    return _rule.get() or _default_rule


def bind_rule(rule: TenantRule | None) -> Token[TenantRule | None]:
    """Set the rule of the pipeline that a block made current; None for the configured one's."""
    return _rule.set(rule)


def reset_rule(token: Token[TenantRule | None]) -> None:
    """Undo ``bind_rule``."""
    leave(_rule, token)


fork_generation: int = 0
"""How many forks lie between the first process and this one: who started an operation ends it, and
a scope is one in the process that made it only."""


def _after_fork_in_child() -> None:
    global fork_generation  # noqa: PLW0603  # a fork is a process-wide fact
    fork_generation += 1


os.register_at_fork(after_in_child=_after_fork_in_child)


class Scope:
    """A tenant, and who acts for it; immutable.

    ``tenant`` is as it was given. A scope with a bad id is a scope all the same: its events are
    refused, and kept with the reason. So is one that a forked process finds in itself.
    """

    __slots__ = (
        "actor",
        "correlation",
        "depth",
        "error",
        "generation",
        "is_block",
        "outer",
        "resolved",
        "tenant",
    )

    def __init__(
        self, tenant: object, *, actor: str | None = None, correlation: str | None = None
    ) -> None:
        """Keep the values; they are checked on first use."""
        self.tenant = tenant
        self.actor = actor
        self.correlation = correlation
        self.error: InvalidTenant | TenantNotSet | None = None
        self.is_block = True
        """Whether a block or a call made it current; else ``bind_tenant`` did."""
        self.outer: Scope | None = None
        """What it was entered in; ``depth`` says how many such there are, itself included."""
        self.depth = 1
        self.generation = fork_generation
        self.resolved: tuple[TenantRule | None, str] = (None, "")
        """What ``fragment`` gave last, and for which rule."""

    @property
    def is_stale(self) -> bool:
        """Whether it was made before this process was forked."""
        return self.generation != fork_generation

    def fragment(self, rule: TenantRule) -> str:
        """Give the scope's columns as JSON members, ``"tenant_id":…,``; empty when it is invalid.

        Computed once for a scope and a rule; ``error`` says why it is invalid. A forked process has
        new rules, so that no event pays for the look at the generation.
        """
        resolved_for, fragment = self.resolved
        if resolved_for is rule:
            return fragment
        fragment = ""
        try:
            if self.is_stale:
                raise TenantNotSet(  # noqa: TRY301  # kept as what is wrong with it, as below
                    "no tenant is set: the process was forked inside a tenant scope, which stays "
                    "with the parent. Enter `with tenant(…):` in the child, or give it "
                    "tenantry.propagate(function)"
                )
            members = {"tenant_id": canonical_tenant(self.tenant, rule.tenant_type)}
        except (InvalidTenant, TenantNotSet) as error:
            self.error = error.with_traceback(None)  # a traceback would keep the caller's frames
        else:
            if self.actor is not None:
                members["actor_id"] = safe_text(self.actor)
            if self.correlation is not None:
                members["correlation_id"] = safe_text(self.correlation)
            self.error = None
            fragment = json.dumps(members, separators=(",", ":"))[1:-1] + ","
        self.resolved = (rule, fragment)  # at once: another thread may resolve for another
        return fragment

    def with_actor(self, actor: str) -> Scope:
        """Copy the scope for another actor."""
        copy = Scope(self.tenant, actor=actor, correlation=self.correlation)
        copy.generation, copy.outer, copy.depth = self.generation, self, self.depth + 1
        return copy

    def __repr__(self) -> str:
        return f"Scope({self.tenant!r}, actor={self.actor!r}, correlation={self.correlation!r})"


def tenant_of(fragment: str) -> str:
    """Read the tenant's id, as text, from what ``Scope.fragment`` gives."""
    end = fragment.find(',"actor_id":')  # within a text, JSON escapes quotation marks
    if end < 0:
        end = fragment.find(',"correlation_id":')
    text = fragment[len('"tenant_id":') : end]  # -1 leaves out the last comma
    if text[0] != '"':
        return text
    return text[1:-1] if "\\" not in text else str(json.loads(text))


class Operation:
    """One run of a decorated function or block, as the code inside it sees it."""

    id: str
    """UUIDv7 of the operation's start; the events of the operation carry it."""
    _data: dict[str, Any] | None = None
    _code: str | None = None
    generation: int = -1

    def set(self, /, **data: Any) -> None:
        """Add data for the terminal event; a later value replaces an earlier one.

        ``error_code`` is used when the operation fails.
        """
        if self._data is None:
            self._data = data
        else:
            self._data.update(data)

    def fail(self, code: str) -> None:
        """Make the operation fail with ``code`` though nothing is raised."""
        self._code = code


class RemoteOperation(Operation):
    """An operation of another process, as the parent of what happens here; nothing is set in it."""

    def __init__(self, operation_id: str) -> None:
        """Keep the id."""
        self.id = operation_id
        self.generation = fork_generation


current: ContextVar[Scope | None] = ContextVar("tenantry_scope", default=None)
running: ContextVar[Operation | None] = ContextVar("tenantry_operation", default=None)


def current_scope() -> Scope | None:
    """Give the scope that events emitted here would carry, or None.

    In a forked process, None until it enters one of its own.
    """
    scope = current.get()
    return None if scope is None or scope.is_stale else scope


def current_operation() -> Operation | None:
    """Give the innermost operation that runs here, or None.

    In a forked process, None until it starts one of its own. Where ``propagate`` handed it to
    another process, it has its ``id`` alone: what is set there is not recorded.
    """
    operation = running.get()
    if operation is None or operation.generation != fork_generation:
        return None
    return operation


def make_scope(tenant_id: object, actor: str | None, correlation: str | None) -> Scope:
    """Make a scope within the current one.

    Actor and correlation are inherited within the same tenant only: what one tenant's request
    carries is never shown to another. Raises ``InvalidTenant`` in strict mode.
    """
    outer = current_scope()
    rule = current_rule()
    if rule.strict:
        canonical_tenant(tenant_id, rule.tenant_type)
    if (
        outer is not None
        and (outer.actor is not None or outer.correlation is not None)
        and _is_same_tenant(outer.tenant, tenant_id, rule.tenant_type)
    ):
        actor = outer.actor if actor is None else actor
        correlation = outer.correlation if correlation is None else correlation
    scope = Scope(tenant_id, actor=actor, correlation=correlation)
    around = current.get()
    if around is not None and around.depth < DEPTH_LIMIT:
        scope.outer, scope.depth = around, around.depth + 1
    return scope


def _is_same_tenant(one: object, other: object, tenant_type: TenantType) -> bool:
    """Compare the canonical forms: a UUID and its text are the same tenant."""
    if one is other or (type(one) is type(other) is str and one == other):
        return True
    try:
        return canonical_tenant(one, tenant_type) == canonical_tenant(other, tenant_type)
    except InvalidTenant:
        return False


def leave(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Undo a ``set``; in another context than that of the ``set`` there is nothing to undo.

    An asynchronous generator that is closed by the event loop, or by another task, ends there.
    """
    try:
        variable.reset(token)
    except ValueError:
        return
