"""Instrumentation: ``emits``, the only file that knows wrapt."""

from __future__ import annotations

import copy
import importlib
import inspect
import operator
import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

import wrapt

from tenantry import pipeline as pipelines
from tenantry.context import Operation, is_coroutine_function, shown
from tenantry.exceptions import (
    ConfigurationError,
    TenantryError,
    UnknownOperation,
    UnsupportedCallable,
)
from tenantry.operation import BoundOperation, OperationSpec, error_type, refuse_reserved
from tenantry.payload import defines
from tenantry.pipeline import Pipeline, current_pipeline, warn_unconfigured
from tenantry.run import Run
from tenantry.taxonomy import RESERVED, check_name

F = TypeVar("F", bound="Callable[..., Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")

_MISSING: Final = object()
_KEYWORD_ONLY: Final = 1 << 30


class Argument:
    """How to take a decorated function's argument by name, at each call."""

    __slots__ = ("default", "index", "name")

    def __init__(self, name: str, index: int, default: object) -> None:
        """Keep the place among the positional arguments, and the default."""
        self.name = name
        self.index = index
        self.default = default

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the argument of a call, its default, or ``_MISSING``."""
        if self.index < len(args):
            return args[self.index]
        return kwargs.get(self.name, self.default)


class emits:  # noqa: N801  # reads as a verb: @emits("ingest")
    """Record that an operation started, and that it completed or failed.

    As a decorator of a function, coroutine function or method (above or below ``@staticmethod``
    and ``@classmethod``), or as a ``with`` or ``async with`` block, which gives the ``Operation``::

        @emits("ingest")
        def ingest(source_type: str, url: str) -> Report: ...


        with emits("ingest", source_type="file", url=path) as operation:
            operation.set(docs=1, chunks=9)

    The events are found by name: ``ingest_started``; ``ingest_completed`` or ``…_succeeded``;
    ``ingest_failed``; a phase that the taxonomy lacks is not emitted. Declared keys are taken, in
    this order, from ``operation.set``, from keywords and ``fields``, from arguments of the same
    name, and for the last event from the result (a mapping's keys, or attributes).

    Options:

    - ``tenant``, ``conn``: as a decorator, an argument's name, a dotted path that begins with one
      (``request.tenant_id``), or a callable of the call's arguments; as a block, the value itself
    - ``actor``: who acts; text, or as a decorator a callable of the call's arguments
    - ``conn``: the completed event joins the caller's own transaction on this connection. A
      rollback takes it back; ``started`` and ``failed`` never join
    - ``fields``: data whose keys are option names, or are computed
    - ``result``: the key under which the result is stored, or a callable that makes data of it
    - ``errors``: ``{exception type: code}``, tried in order
    - ``failed_if``: a callable of the result; true, or an error code, means failed

    An option that raises for a call is warned of and passed over; where the ``tenant`` of a call
    raises or gives None, the events are refused, and never given to the scope's tenant. The result
    is returned in any case. Iterators are never read: such a value counts as not given.

    A plain function that returns a coroutine is recorded until that is awaited; of one that returns
    a task, future, generator or other awaitable the outcome is not known, and not recorded.

    A failure carries a code: that of ``operation.fail``, of ``errors``, of the exception's
    ``error_code`` or ``sqlstate``, or its type name; cancellation is ``cancelled``. An exception
    passes unchanged.

    Generator functions, classes and other callables are refused with ``UnsupportedCallable``.
    Raises ``TaxonomyError`` for a malformed name. In strict mode, mistakes that would be recorded
    in ``rejected_events`` raise before the body runs.
    """

    def __init__(
        self,
        operation: str,
        /,
        *,
        tenant: Any = None,
        actor: str | Callable[..., str] | None = None,
        conn: Any = None,
        fields: Mapping[str, Any] | None = None,
        result: Callable[[Any], Mapping[str, Any]] | str | None = None,
        errors: Mapping[type[BaseException], str] | None = None,
        failed_if: Callable[[Any], object] | None = None,
        **data: Any,
    ) -> None:
        """Check the options; nothing is emitted yet."""
        if not isinstance(operation, str):
            raise UnsupportedCallable(
                f"emits() takes the name of an operation first, not {operation!r:.80}: write "
                '@emits("ingest") above the function, with the parentheses'
            )
        refuse_reserved(data, "emits()")
        check_errors(operation, errors or {})
        self._spec = OperationSpec(
            check_name(operation, "an operation"),
            actor,
            {**(fields or {}), **data},
            result,
            dict(errors or {}),
            failed_if,
        )
        self._tenant = tenant
        self._conn = conn
        self._run: Run | None = None
        self._entered = False
        self._bound: BoundOperation | None = None
        self._unbound: Pipeline | None = None

    # As a decorator.

    def __call__(self, function: F) -> F:
        """Decorate a function."""
        decorated = Decorated(self, function)
        wrapper = decorated.run_async if decorated.is_async else decorated.run
        # A transparent proxy: to a type checker it is the function.
        return cast("F", _FunctionWrapper(cast("Any", function), wrapper))

    # As a block.

    def __enter__(self) -> Operation:
        self._run = self._enter_block()
        return self._run or _Unrecorded()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        run, self._run = self._run, None
        line = None if run is None else run.end(error)
        if run is not None and line is not None:
            run.hand(line)

    async def __aenter__(self) -> Operation:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        run, self._run = self._run, None
        line = None if run is None else run.end(error)
        if run is not None and line is not None:
            await run.ahand(line)

    def _enter_block(self) -> Run | None:
        if self._entered:
            raise RuntimeError(
                f"this emits({self._spec.name!r}) object was entered before; each block takes a "
                f"fresh one: `with emits({self._spec.name!r}, …):`"
            )
        self._entered = True
        bound = self.bind()
        if bound is None:
            return None
        try:
            actor = text_actor(bound)
            run = Run(bound, dict(bound.data), usable_conn(bound, self._conn))
            run.begin(self._tenant, actor)
        except Exception as error:
            if bound.pipeline.strict and isinstance(error, TenantryError):
                raise
            bound.pipeline.note_internal_error()
            return None
        return run

    # Both.

    def bind(self) -> BoundOperation | None:
        """Compile the options for the current pipeline; None where nothing is to be recorded.

        Raises in strict mode only: ``UnknownOperation``.
        """
        pipeline = current_pipeline()
        bound = self._bound
        if bound is not None and bound.pipeline is pipeline:
            return bound
        if pipeline is None:
            with suppress(Exception):  # a filter of the application's may raise
                warn_unconfigured()
            return None
        if self._unbound is pipeline:
            return None
        try:
            bound = BoundOperation(self._spec, pipeline)
        except Exception as error:
            if pipeline.strict and isinstance(error, TenantryError):
                raise
            if isinstance(error, UnknownOperation):
                self._unbound = pipeline
                pipeline.warn(("operation", self._spec.name), "%s", error)
            else:
                pipeline.note_internal_error()
            return None
        self._bound = bound
        return bound


class _Unrecorded(Operation):
    """What a block yields where nothing is recorded: it takes data, and forgets it."""

    id = ""


class Decorated:
    """What ``emits`` knows of the function that it decorates."""

    def __init__(self, options: emits, function: Any) -> None:
        """Inspect the function; raises ``UnsupportedCallable`` and ``ConfigurationError``."""
        target = function
        if isinstance(function, (staticmethod, classmethod)):
            target = cast("Any", function).__func__
        self._options = options
        self._spec = options._spec  # noqa: SLF001  # two halves of one thing
        self._name = getattr(target, "__qualname__", repr(target)[:80])
        refuse_unsupported(target, self._name)
        self.is_async = is_coroutine_function(target)
        # A function in a class lists self or cls first; wrapt gives it apart from the arguments.
        self._lists_instance = inspect.isfunction(inspect.unwrap(target))
        self._parameters = parameters_of(target)
        tenant = options._tenant  # noqa: SLF001
        self._tenant = self._taker(tenant, "tenant")
        self._tenant_shown = repr(tenant) if isinstance(tenant, str) else "…"
        self._conn = self._taker(options._conn, "conn")  # noqa: SLF001
        actor = self._spec.actor
        self._actor = None if callable(actor) else actor
        self._ask_actor: _Taker | None = None
        if callable(actor):
            self._ask_actor = lambda args, kwargs: actor(*args, **kwargs)
        self._asks = bool(self._tenant or self._conn or self._ask_actor)
        self._bound: tuple[BoundOperation, list[_Taken]] | None = None
        """One value, so that threads with different pipelines never mix two."""
        self._finished: type | None = None
        """The type of the last result that was complete: mostly that of the next one too."""

    def _taker(self, option: Any, what: str) -> _Taker | None:
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
        first, *path = option.split(".")
        argument = self._parameters.get(first)
        if argument is None:
            raise ConfigurationError(
                f"emits({self._spec.name!r}): {what}={option!r:.80} names no parameter of "
                f"{self._name}; it has {', '.join(self._parameters) or 'none'}. Name one, give a "
                f"dotted path that begins with one, or a callable"
                + ("; for a fixed tenant use `with tenant(…)`" if what == "tenant" else "")
            )

        def take(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = argument.take(args, kwargs)
            for part in path:
                value = value[part] if isinstance(value, Mapping) else getattr(value, part)
            return None if value is _MISSING else value

        return take

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
        bound, arguments = known
        try:
            if instance is not None and self._lists_instance:
                args = (instance, *args)
            values: dict[str, Any] = {}
            count = len(args)
            for field, index, name, default in arguments:
                if index < count:
                    values[field] = args[index]
                elif (value := kwargs.get(name, default)) is not _MISSING:
                    values[field] = value
            if bound.data:
                values.update(bound.data)
            tenant = conn = None
            actor = self._actor
            if self._asks:
                tenant, conn, actor = self._ask_all(bound, args, kwargs)
            run = Run(bound, values, conn)
            run.begin(tenant, actor)
        except Exception as error:
            if bound.pipeline.strict and isinstance(error, TenantryError):
                raise
            bound.pipeline.note_internal_error()
            return None
        return run

    def _bind(self) -> tuple[BoundOperation, list[_Taken]] | None:
        bound = self._options.bind()
        if bound is None:
            return None
        arguments = [
            (field, argument.index, name, argument.default)
            for name, argument in self._parameters.items()
            if (field := bound.declared.get(name)) is not None and name not in RESERVED
        ]
        self._bound = (bound, arguments)
        return self._bound

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
        taker: _Taker | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if taker is None:
            return None
        try:
            return taker(args, kwargs)
        except Exception as error:
            problem = f"emits({self._spec.name!r}): {what}= raised {error_type(error)}"
            if bound.pipeline.strict:
                raise ConfigurationError(f"{problem} for this call of {self._name}") from error
            bound.pipeline.warn((what, self._name), "%s; %s", problem, _WITHOUT[what])
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
        if isinstance(result, types.CoroutineType):
            run.suspend()
            return finish_awaited(run, result)
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
        held = _Unawaited()  # without __init__, which would cost each call
        held.inner = inner
        outer: Any = self._run_awaited(held, instance, args, kwargs)
        if type(inner) is types.CoroutineType:
            outer.__name__ = inner.__name__
            outer.__qualname__ = inner.__qualname__
        return outer

    async def _run_awaited(
        self, held: _Unawaited, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            run = self._begin(instance, args, kwargs)
        except BaseException:
            held.close()
            raise
        inner, held.inner = held.inner, None
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


_Taken = tuple[str, int, str, object]
"""Field, place, name and default of a parameter that is taken as data."""

_Taker = Callable[[tuple[Any, ...], dict[str, Any]], Any]

_WITHOUT: Final = {
    "tenant": "its events are refused: they are given to no other tenant",
    "conn": "its completed event does not join the transaction",
    "actor": "the scope's actor is recorded",
}


class _Unknown(NamedTuple):
    """What an option gives that raised; as a tenant it is a bad id, and never the scope's."""

    why: str

    def __repr__(self) -> str:
        return self.why


def is_unfinished(kind: type) -> bool:
    """Say whether a function that returns this may not have done its work yet."""
    return (
        kind is types.GeneratorType
        or kind is types.AsyncGeneratorType
        or defines(kind, "__await__")
    )


class _Unawaited:
    """Closes the coroutine of a decorated one that is never awaited: Python warns of that once."""

    __slots__ = ("inner",)

    inner: Any

    def __del__(self) -> None:
        if self.inner is not None:
            self.close()

    def close(self) -> None:
        """Close what was not awaited; of other awaitables nothing is known."""
        if isinstance(self.inner, types.CoroutineType):
            self.inner.close()


async def finish_awaited(run: Run, awaitable: Coroutine[Any, Any, Any]) -> Any:
    """Await what a plain function returned, as part of its run."""
    run.resume()
    try:
        result = await awaitable
    except BaseException as error:
        run.end(error)
        raise
    line = run.end(None, result)
    if line is not None:
        await run.ahand(line)
    return result


class _BoundFunctionWrapper(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # untyped C base
    """A bound method, which also pickles and copies as one does: by its object and name."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        method = _wrapped(self)
        owner = getattr(method, "__self__", None)
        if owner is None:  # static, or taken from the class: made anew each time, so found by name
            return find_by_name, (method.__module__, method.__qualname__)
        return getattr, (owner, method.__name__)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        method = _wrapped(self)
        owner = getattr(method, "__self__", None)
        return self if owner is None else getattr(copy.deepcopy(owner, memo), method.__name__)


class _FunctionWrapper(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # untyped C base
    """wrapt's wrapper, which also pickles and copies as a function does: by its name."""

    __bound_function_wrapper__ = _BoundFunctionWrapper

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _wrapped(self).__qualname__

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def find_by_name(module: str, qualified_name: str) -> Any:
    """Give what a module holds under a dotted name; unpickles methods."""
    return operator.attrgetter(qualified_name)(importlib.import_module(module))


def _wrapped(proxy: Any) -> Any:
    return proxy.__wrapped__


def check_errors(operation: str, errors: Mapping[Any, Any]) -> None:
    """Raise ``ConfigurationError`` unless it maps exception types to codes."""
    for kind, code in errors.items():
        if not (
            inspect.isclass(kind) and issubclass(kind, BaseException) and isinstance(code, str)
        ):
            raise ConfigurationError(
                f"emits({operation!r:.80}): errors= maps exception types to codes, as in "
                f"{{TimeoutError: 'timeout'}}; {shown(kind)}: {shown(code)} does not"
            )


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
    pipeline.warn(("conn", bound.spec.name), "%s; %s", problem, _WITHOUT["conn"])
    return None


def text_actor(bound: BoundOperation) -> str | None:
    """Give the actor of a block, or None where it is a callable; strict mode raises."""
    actor = bound.spec.actor
    if not callable(actor):
        return actor
    problem = (
        f"emits({bound.spec.name!r}): a block takes actor= as text; there is no call whose "
        "arguments a callable could be given"
    )
    if bound.pipeline.strict:
        raise ConfigurationError(problem)
    bound.pipeline.warn(("actor", bound.spec.name), "%s; %s", problem, _WITHOUT["actor"])
    return None


def refuse_unsupported(target: Any, name: str) -> None:
    """Raise ``UnsupportedCallable`` for what would be recorded wrongly."""
    kind = cast("Any", type(target))
    call = kind.__call__ if callable(target) and not inspect.isroutine(target) else target
    remedy = "use `with emits(…):` inside its body, around the work itself"
    if inspect.isclass(target):
        problem, remedy = "a class", "decorate its methods"
    elif isinstance(target, property):
        problem, remedy = "a property", "put @emits below @property"
    elif any(map(inspect.isgeneratorfunction, (target, call))):
        problem = "a generator function"
    elif any(map(inspect.isasyncgenfunction, (target, call))):
        problem = "an asynchronous generator function"
    elif not callable(target):
        problem, remedy = (
            f"a {type(target).__name__}, which cannot be called",
            "decorate a function",
        )
    else:
        return
    raise UnsupportedCallable(f"emits() cannot decorate {name}: it is {problem}; {remedy}")


def parameters_of(target: Any) -> dict[str, Argument]:
    """List the parameters that can be taken by name; none where there is no signature."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return {}
    found: dict[str, Argument] = {}
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        place = _KEYWORD_ONLY if parameter.kind is parameter.KEYWORD_ONLY else index
        default = _MISSING if parameter.default is parameter.empty else parameter.default
        found[parameter.name] = Argument(parameter.name, place, default)
    return found
