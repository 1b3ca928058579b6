"""Decorated functions: what happens around each call. Knows nothing of wrapt."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import copy_context
from typing import Any, Final, NamedTuple, assert_never, cast
from weakref import WeakSet

from tenantry import pipeline as pipelines
from tenantry.bodies import Held, Place, drive, drive_async, follow, here, named_like
from tenantry.callables import (
    KEYWORD_ONLY,
    MISSING,
    Taker,
    find_taker,
    is_unfinished,
    kind_of,
    parameters_of,
    refuse_unsupported,
    takes_any_keyword,
)
from tenantry.codes import error_type
from tenantry.context import current, running
from tenantry.exceptions import ConfigurationError, TenantryError
from tenantry.interruptions import is_interruption
from tenantry.operation import BoundOperation, OperationSpec
from tenantry.run import Run
from tenantry.taxonomy import RESERVED

_Bind = Callable[[], BoundOperation | None]


class Decorated:
    """What ``emits`` knows of the function that it decorates."""

    def __init__(
        self, function: Any, spec: OperationSpec, bind: _Bind, *, tenant: Any, conn: Any
    ) -> None:
        """Inspect the function; raises ``UnsupportedCallable`` and ``ConfigurationError``."""
        target = function
        if isinstance(function, (staticmethod, classmethod)):
            target = cast("Any", function).__func__
        self.target: Final = target
        self._spec = spec
        self._bind_options = bind
        self._name = getattr(target, "__qualname__", repr(target)[:80])
        refuse_unsupported(target, self._name)
        self._kind: Final = kind_of(target)
        # A function in a class lists self or cls first; wrapt gives it apart from the arguments.
        self._lists_instance = inspect.isfunction(inspect.unwrap(target))
        self._parameters = parameters_of(target)
        self._tenant = self._taker(tenant, "tenant")
        self._tenant_shown = repr(tenant) if isinstance(tenant, str) else "…"
        self._conn = self._taker(conn, "conn")
        actor = self._spec.actor
        self._actor = None if callable(actor) else actor
        self._ask_actor: Taker | None = None
        if callable(actor):
            self._ask_actor = lambda args, kwargs: actor(*args, **kwargs)
        self._fields = self._compile_fields()
        self._takes_any_keyword = takes_any_keyword(target)
        self._asks = bool(self._tenant or self._conn or self._ask_actor or self._fields)
        self._bound: _Bindings | None = None
        """One value, so that threads with different pipelines never mix two."""
        self._finished: type | None = None
        """The type of the last result that was complete: mostly that of the next one too."""
        decorations.add(self)

    @property
    def spec(self) -> OperationSpec:
        """The options that ``emits`` was given."""
        return self._spec

    def wrapper(self) -> Callable[..., Any]:
        """Give what runs instead of the function: it takes that, its instance, and the arguments.

        It is not kept here: an object that holds its own method waits for the garbage collector.
        """
        match self._kind:
            case "function":
                return self.run
            case "coroutine":
                return self.run_async
            case "generator":
                return self.run_generator
            case "async generator":
                return self.run_async_generator
            case _:
                assert_never(self._kind)

    def _taker(self, option: Any, what: str) -> Taker | None:
        """Compile an option that names an argument into a function of (args, kwargs).

        A method's arguments begin with the instance, as its signature does.
        """
        if option is None:
            return None
        if callable(option):
            return lambda args, kwargs: option(*args, **kwargs)
        if not isinstance(option, str):
            if what == "tenant":  # a tenant's id itself, or PLATFORM
                return lambda _args, _kwargs: option
            raise ConfigurationError(
                f"emits({self._spec.name!r}): as a decorator, {what}= is an argument's name, a "
                f"dotted path or a callable, not {type(option).__name__}"
            )
        taker = find_taker(option, self._parameters)
        if taker is None:
            raise ConfigurationError(
                f"emits({self._spec.name!r}): {what}={option!r:.80} names no parameter of "
                f"{self._name}; it has {', '.join(self._parameters) or 'none'}. Name one, give a "
                f"dotted path that begins with one, or a callable"
                + ("; for a fixed tenant use `with tenant(…)`" if what == "tenant" else "")
            )
        return taker

    def _compile_fields(self) -> dict[str, Taker]:
        """Tell what ``fields=`` takes from a call from what are values."""
        takers: dict[str, Taker | None] = {}
        for key, value in self._spec.fields.items():
            if callable(value):
                takers[key] = self._taker(value, "fields")
            elif isinstance(value, str):
                takers[key] = find_taker(value, self._parameters)
        return {key: taker for key, taker in takers.items() if taker is not None}

    def _begin(  # noqa: C901  # on the caller's path, where each further call costs
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Run | None:
        known = self._bound
        if known is None or known[0].pipeline is not (
            pipelines.current.get() or pipelines.configured
        ):
            known = self._bind()
            if known is None:
                return None
        bound, arguments, data = known
        try:
            if instance is not None and self._lists_instance:
                args = (instance, *args)
            values: dict[str, Any] = {}
            count = len(args)
            for field, index, name, default in arguments:
                if index < count:
                    values[field] = args[index]
                elif (value := kwargs.get(name, default)) is not MISSING:
                    values[field] = value
            if data:
                values.update(data)
            tenant = conn = None
            actor = self._actor
            if self._asks:
                tenant, conn, actor = self._ask_all(bound, args, kwargs)
                self._take_fields(bound, values, args, kwargs)
            run = Run(bound, values, conn)
            run.begin(tenant, actor)
        except Exception as error:
            if bound.pipeline.strict and isinstance(error, TenantryError):
                raise
            bound.pipeline.note_internal_error()
            return None
        return run

    def _bind(self) -> _Bindings | None:
        bound = self._bind_options()
        if bound is None:
            return None
        arguments = [
            (field, argument.index, name, argument.default)
            for name, argument in self._parameters.items()
            if (field := bound.declared.get(name)) is not None and name not in RESERVED
        ]
        if self._takes_any_keyword:
            arguments += [
                (field, KEYWORD_ONLY, name, MISSING)
                for name, field in bound.declared.items()
                if name not in self._parameters and name not in RESERVED
            ]
        taken = {bound.field_of(key) for key in self._fields.keys() - self._spec.data.keys()}
        data = {field: value for field, value in bound.data.items() if field not in taken}
        self._bound = (bound, arguments, data)
        return self._bound

    def _take_fields(
        self,
        bound: BoundOperation,
        values: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        for key, taker in self._fields.items():
            field = bound.field_of(key)
            if field is not None and key not in self._spec.data:
                value = self._ask(bound, "fields", taker, args, kwargs)
                if type(value) is not _Unknown:
                    values[field] = value

    def _ask_all(
        self, bound: BoundOperation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any, Any]:
        """Give tenant, connection and actor of a call."""
        tenant = self._ask(bound, "tenant", self._tenant, args, kwargs)
        if tenant is None and self._tenant is not None:
            tenant = _Unknown(f"<tenant={self._tenant_shown} gave None>")
        conn = self._ask(bound, "conn", self._conn, args, kwargs)
        actor = self._ask(bound, "actor", self._ask_actor, args, kwargs)
        conn = None if type(conn) is _Unknown else usable_conn(bound, conn)
        if actor is None or type(actor) is _Unknown:
            actor = self._actor
        return tenant, conn, actor

    def _ask(
        self,
        bound: BoundOperation,
        what: str,
        taker: Taker | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if taker is None:
            return None
        try:
            return taker(args, kwargs)
        except Exception as error:
            if is_interruption(error):
                raise
            problem = f"emits({self._spec.name!r}): {what}= raised {error_type(error)}"
            if bound.pipeline.strict:
                raise ConfigurationError(f"{problem} for this call of {self._name}") from error
            bound.pipeline.warn((what, self._name), "%s; %s", problem, WITHOUT[what])
            return _Unknown(f"<{what}= raised {error_type(error)}>")

    def run(
        self,
        wrapped: Callable[..., Any],
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call the function, between its events."""
        run = self._begin(instance, args, kwargs)
        if run is None:
            return wrapped(*args, **kwargs)
        try:
            result: object = wrapped(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        # By identity: isinstance would ask the result itself, and a set its type's metaclass.
        kind = type(result)
        if kind is not self._finished:
            if is_unfinished(kind):
                return self._follow(run, result)
            self._finished = kind
        line = run.end(None, result)
        if line is not None:
            run.hand(line)
        return result

    def _follow(self, run: Run, result: Any) -> Any:
        """Go on with a run whose function returned before its work is done."""
        run.pause()
        followed = follow(run, result)
        if followed is not None:
            return followed
        run.abandon()
        run.pipeline.warn(
            ("unfinished", self._name),
            "emits(%r): %s returned a %s, whose end is not seen; no outcome is recorded. Decorate "
            "the function that does the work, or use `with emits(…)` inside it",
            self._spec.name,
            self._name,
            type(result).__name__,
        )
        return result

    def run_async(
        self,
        wrapped: Callable[..., Awaitable[Any]],
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call the coroutine function, which checks the arguments; its events are around the await.

        Nothing is recorded before that.
        """
        inner: Any = wrapped(*args, **kwargs)
        held = Held()  # without __init__, which would cost each call
        held.inner = inner
        outer: Any = self._run_awaited(held, here(), instance, args, kwargs)
        if type(inner) is types.CoroutineType:
            outer.__name__ = inner.__name__
            outer.__qualname__ = inner.__qualname__
        return outer

    async def _run_awaited(
        self, held: Held, place: Place, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            if place == here():
                run = self._begin(instance, args, kwargs)
            else:
                run = self._begin_at(place, instance, args, kwargs)
                if run is not None:
                    run.resume()
        except BaseException:
            held.close()
            raise
        inner = held.take()
        if run is None:
            return await inner
        try:
            result = await inner
        except BaseException as error:
            run.end(error)
            raise
        line = run.end(None, result)
        if line is not None:
            await run.ahand(line)
        return result

    def run_generator(
        self,
        wrapped: Callable[..., Generator[Any, Any, Any]],
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call the generator function, which checks the arguments; its body runs later."""
        inner = wrapped(*args, **kwargs)
        return named_like(inner, drive(self._hold(inner, instance, args, kwargs)))

    def run_async_generator(
        self,
        wrapped: Callable[..., AsyncGenerator[Any, Any]],
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call the asynchronous generator function; its body runs later."""
        inner = wrapped(*args, **kwargs)
        return named_like(inner, drive_async(self._hold(inner, instance, args, kwargs)))

    def _hold(
        self, inner: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Held:
        held, place = Held(), here()
        held.inner = inner
        held.begin = lambda: self._begin_at(place, instance, args, kwargs)
        return held

    def _begin_at(
        self, place: Place, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Run | None:
        """Begin where the call was made, whatever is current here; the run is paused then."""

        def begin() -> Run | None:
            scope, operation, pipeline = place
            current.set(scope)
            running.set(operation)
            pipelines.current.set(pipeline)
            run = self._begin(instance, args, kwargs)
            if run is not None:
                run.pause()
            return run

        return copy_context().run(begin)


decorations: Final[WeakSet[Decorated]] = WeakSet()
"""All that lives, for those who look at an application from outside; no call ever reads it."""

_Taken = tuple[str, int, str, object]
"""Field, place, name and default of a parameter that is taken as data."""

_Bindings = tuple[BoundOperation, list[_Taken], dict[str, Any]]
"""What is taken from a call, parameter by parameter, and what was given at decoration."""

WITHOUT: Final = {
    "tenant": "its events are refused: they are given to no other tenant",
    "conn": "its completed event does not join the transaction",
    "actor": "the scope's actor is recorded",
    "fields": "the key is left out",
}


class _Unknown(NamedTuple):
    """What an option gives that raised; as a tenant it is a bad id, and never the scope's."""

    why: str

    def __repr__(self) -> str:
        return self.why


def usable_conn(bound: BoundOperation, conn: object) -> object:
    """Give the connection back, or None where the exporter writes over none; strict mode raises."""
    pipeline = bound.pipeline
    if conn is None or hasattr(pipeline.exporter, "insert"):
        return conn
    problem = (
        f"emits({bound.spec.name!r}): conn= needs an exporter that writes to PostgreSQL, not "
        f"{type(pipeline.exporter).__qualname__}"
    )
    if pipeline.strict:
        raise ConfigurationError(problem)
    pipeline.warn(("conn", bound.spec.name), "%s; %s", problem, WITHOUT["conn"])
    return None
