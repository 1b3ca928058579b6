"""Scopes in contextvars: tenant, actor, correlation, and the current operation.

Knows nothing of events or of pipelines; a pipeline tells it only what type tenant ids have and
whether to be strict.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import CoroutineType, TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast
from uuid import UUID

from tenantry.exceptions import InvalidTenant, UnsupportedCallable

TenantType = Literal["uuid", "bigint", "text"]
TENANT_TYPES: Final[tuple[TenantType, ...]] = ("uuid", "bigint", "text")

TEXT_LIMIT: Final = 200
"""Characters kept of an actor, a correlation id or an error code; and the longest text tenant."""

_UNSAFE = re.compile("[\0\ud800-\udfff]")
_BIGINT_MAX: Final = 2**63 - 1

F = TypeVar("F", bound=Callable[..., Any])


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
    except Exception:  # noqa: BLE001  # the value's own methods: an id that cannot be read is a bad one
        canonical = None
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
    except Exception:  # noqa: BLE001  # the value's own method
        text = f"<{type(value).__name__}>"
    return _UNSAFE.sub("\ufffd", text[:TEXT_LIMIT])


def shown(value: object) -> str:
    """Show a value in an error's text: its repr, cut to 80 characters; raises nothing."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001  # the value's own method
        return f"<{type(value).__name__}>"


@dataclass(frozen=True, slots=True)
class TenantRule:
    """What a pipeline demands of tenant ids."""

    tenant_type: TenantType = "uuid"
    strict: bool = False


_default_rule = TenantRule()
_rule: ContextVar[TenantRule | None] = ContextVar("tenantry_tenant_rule", default=None)


def set_default_rule(rule: TenantRule) -> None:
    """Set the rule of the configured pipeline."""
    global _default_rule  # noqa: PLW0603  # the process has one configured pipeline
    _default_rule = rule


def bind_rule(rule: TenantRule) -> Token[TenantRule | None]:
    """Set the rule of the pipeline that a block made current."""
    return _rule.set(rule)


def reset_rule(token: Token[TenantRule | None]) -> None:
    """Undo ``bind_rule``."""
    leave(_rule, token)


class Scope:
    """A tenant, and who acts for it; immutable.

    ``tenant`` is as it was given. A scope with a bad id is a scope all the same: its events are
    refused, and kept with the reason.
    """

    __slots__ = ("_resolved", "actor", "correlation", "error", "is_block", "outer", "tenant")

    def __init__(
        self, tenant: object, *, actor: str | None = None, correlation: str | None = None
    ) -> None:
        """Keep the values; they are checked on first use."""
        self.tenant = tenant
        self.actor = actor
        self.correlation = correlation
        self.error: InvalidTenant | None = None
        self.is_block = False
        """Whether a ``with tenant(…)`` block made it current; ``outer`` is then what was before."""
        self.outer: Scope | None = None
        self._resolved: tuple[TenantType | None, str] = (None, "")

    def fragment(self, tenant_type: TenantType) -> str:
        """Give the scope's columns as JSON members, ``"tenant_id":…,``; empty when it is invalid.

        Computed once for a scope; ``error`` says why it is invalid.
        """
        resolved_for, fragment = self._resolved
        if resolved_for is tenant_type:
            return fragment
        fragment = ""
        try:
            members = {"tenant_id": canonical_tenant(self.tenant, tenant_type)}
        except InvalidTenant as error:
            self.error = error.with_traceback(None)  # a traceback would keep the caller's frames
        else:
            if self.actor is not None:
                members["actor_id"] = safe_text(self.actor)
            if self.correlation is not None:
                members["correlation_id"] = safe_text(self.correlation)
            self.error = None
            fragment = json.dumps(members, separators=(",", ":"))[1:-1] + ","
        self._resolved = (tenant_type, fragment)  # at once: another thread may resolve for another
        return fragment

    def with_actor(self, actor: str) -> Scope:
        """Copy the scope for another actor."""
        return Scope(self.tenant, actor=actor, correlation=self.correlation)

    def __repr__(self) -> str:
        return f"Scope({self.tenant!r}, actor={self.actor!r}, correlation={self.correlation!r})"


class Operation:
    """One run of a decorated function or block, as the code inside it sees it."""

    id: str
    """UUIDv7 of the operation's start; the events of the operation carry it."""
    _data: dict[str, Any] | None = None
    _code: str | None = None

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


current: ContextVar[Scope | None] = ContextVar("tenantry_scope", default=None)
_left_early: ContextVar[tuple[Scope | None, ...]] = ContextVar("tenantry_left", default=())
"""Scopes whose block ended while a later one was open: nobody returns to them."""
running: ContextVar[Operation | None] = ContextVar("tenantry_operation", default=None)


def current_scope() -> Scope | None:
    """Give the scope that events emitted here would carry, or None."""
    return current.get()


def current_operation() -> Operation | None:
    """Give the innermost operation that runs here, or None."""
    return running.get()


def make_scope(tenant_id: object, actor: str | None, correlation: str | None) -> Scope:
    """Make a scope within the current one.

    Actor and correlation are inherited within the same tenant only: what one tenant's request
    carries is never shown to another. Raises ``InvalidTenant`` in strict mode.
    """
    outer = current.get()
    rule = _rule.get() or _default_rule
    if rule.strict:
        canonical_tenant(tenant_id, rule.tenant_type)
    if (
        outer is not None
        and (outer.actor is not None or outer.correlation is not None)
        and _is_same_tenant(outer.tenant, tenant_id, rule.tenant_type)
    ):
        actor = outer.actor if actor is None else actor
        correlation = outer.correlation if correlation is None else correlation
    return Scope(tenant_id, actor=actor, correlation=correlation)


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


def bind_tenant(
    tenant_id: object, *, actor: str | None = None, correlation: str | None = None
) -> Token[Scope | None]:
    """Enter a tenant's scope without a block, as a middleware does; give the token to ``reset``.

    Raises ``InvalidTenant`` in strict mode only.
    """
    return current.set(make_scope(tenant_id, actor, correlation))


def reset(token: Token[Scope | None]) -> None:
    """Leave the scope that ``bind_tenant`` entered.

    Raises ``ValueError`` in another context (task, thread) than that of ``bind_tenant``.
    """
    current.reset(token)


class tenant:  # noqa: N801  # reads as a keyword: with tenant(…)
    """Enter a tenant's scope for a block or for each call of a function.

    Events emitted inside belong to that tenant. ``actor`` names who acts (``user:42``),
    ``correlation`` the request or job; both are inherited from an outer scope of the same tenant.
    Scopes nest, and follow contextvars: asyncio tasks and ``asyncio.to_thread`` inherit them, new
    threads do not.

    A bad id gives a scope whose events are refused and kept with the reason; in strict mode
    ``InvalidTenant`` is raised. Each block takes a fresh ``tenant(…)``.
    """

    def __init__(
        self, tenant_id: object, /, *, actor: str | None = None, correlation: str | None = None
    ) -> None:
        """Keep the values; nothing is entered yet."""
        self._values = (tenant_id, actor, correlation)
        self._token: Token[Scope | None] | None = None
        self._scope: Scope | None = None

    def __enter__(self) -> Scope:
        if self._token is not None:
            raise RuntimeError(
                f"this tenant({shown(self._values[0])}) block is already entered; write "
                "`with tenant(…)` anew for each block"
            )
        scope = make_scope(*self._values)
        scope.outer, scope.is_block = current.get(), True
        self._scope = scope
        self._token = current.set(scope)
        return scope

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        now = current.get()
        if now is not self._scope and now is not None and now.is_block:
            # Another block is entered still (a generator held this one open): it stays current.
            _left_early.set((*_left_early.get(), self._scope))
            return
        leave(current, token)
        while (now := current.get()) is not None and now in _left_early.get():
            _left_early.set(tuple(scope for scope in _left_early.get() if scope is not now))
            current.set(now.outer)

    def _fresh(self) -> Self:
        tenant_id, actor, correlation = self._values
        return type(self)(tenant_id, actor=actor, correlation=correlation)

    def __call__(self, function: F) -> F:
        """Decorate a function or a coroutine function, a method, or a static or class method."""
        if isinstance(function, (staticmethod, classmethod)):
            method = cast("Any", function)
            return cast("F", type(method)(self(method.__func__)))
        name = getattr(function, "__qualname__", shown(function))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UnsupportedCallable(
                f"tenant(…) cannot decorate the generator function {name}: its consumer would run "
                "inside the scope. Open `with tenant(…)` within its body, around the parts that do "
                "not yield"
            )
        if inspect.isclass(function) or not callable(function):
            raise UnsupportedCallable(
                f"tenant(…) cannot decorate {name}, which is no function; decorate functions and "
                "methods, or write `with tenant(…):`"
            )
        if is_coroutine_function(function):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with self._fresh():
                    return await function(*args, **kwargs)

            return cast("F", run_async)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._fresh():
                result = function(*args, **kwargs)
            if type(result) is CoroutineType:  # its body has not run yet
                return self._await(cast("Awaitable[Any]", result))
            return result

        return cast("F", run)

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        with self._fresh():
            return await awaitable


def is_coroutine_function(target: Any) -> bool:
    """Say whether calling it gives a coroutine: a coroutine function, or an object of that kind."""
    return inspect.iscoroutinefunction(target) or (
        not inspect.isroutine(target) and inspect.iscoroutinefunction(type(target).__call__)
    )
