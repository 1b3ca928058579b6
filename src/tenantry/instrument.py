"""Instrumentation: ``emits``, the only file that knows wrapt."""

from __future__ import annotations

import copy
import importlib
import inspect
import operator
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self, TypeVar, cast, get_args

import wrapt

from tenantry.context import Operation, shown
from tenantry.decorated import WITHOUT, Decorated, usable_conn
from tenantry.exceptions import (
    ConfigurationError,
    TenantryError,
    UnknownOperation,
    UnsupportedCallable,
)
from tenantry.interruptions import is_interruption
from tenantry.operation import BoundOperation, OnClose, OperationSpec, refuse_reserved
from tenantry.pipeline import Pipeline, current_pipeline, warn_unconfigured
from tenantry.run import Run
from tenantry.taxonomy import check_name

F = TypeVar("F", bound="Callable[..., Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")


class emits:  # noqa: N801  # reads as a verb: @emits("ingest")
    """Record that an operation started, and that it completed or failed.

    As a decorator of a function, coroutine function, generator or asynchronous generator function,
    or of a method (above or below ``@staticmethod`` and ``@classmethod``), or as a ``with`` or
    ``async with`` block, which gives the ``Operation``::

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
    - ``fields``: data whose keys are option names, or, as a decorator, that is taken from the call.
      Text that names an argument, or begins with one (``{"url": "self.source.url"}``), gives that;
      a callable is called with the arguments; anything else is a value
    - ``result``: the key under which the result is stored, or a callable that makes data of it
    - ``errors``: ``{exception type: code}``, tried in order
    - ``failed_if``: a callable of the result; true, or an error code, means failed
    - ``on_close``: what it means that a generator's consumer stopped early: ``"completed"``, or
      ``"cancelled"``, which is a failure with that code

    An option that raises for a call is warned of and passed over; where the ``tenant`` of a call
    raises or gives None, the events are refused, and never given to the scope's tenant. The result
    is returned in any case. Iterators are never read: such a value counts as not given.

    A generator is recorded from when its consumer first asks until its body ends; its duration is
    the time that the body ran. A plain function that returns a coroutine or generator is recorded
    until that ends, and one that returns a future (a task too) until that is done; of one that
    returns another awaitable the outcome is not recorded. Tenant and parent are those of the call,
    wherever the body runs. What is dropped before it was awaited or done has failed with the code
    ``abandoned``.

    A failure carries a code: that of ``operation.fail``, of ``errors``, of the exception's
    ``error_code`` or ``sqlstate``, or its type name; cancellation is ``cancelled``. An exception
    passes unchanged.

    Classes and what cannot be called are refused with ``UnsupportedCallable``.
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
        on_close: OnClose = "completed",
        **data: Any,
    ) -> None:
        """Check the options; nothing is emitted yet."""
        if not isinstance(operation, str):
            raise UnsupportedCallable(
                f"emits() takes the name of an operation first, not {operation!r:.80}: write "
                '@emits("ingest") above the function, with the parentheses'
            )
        refuse_reserved(data, "emits()")
        given = as_mapping(operation, "fields", fields)
        codes = as_mapping(operation, "errors", errors)
        check_errors(operation, codes)
        check_on_close(operation, on_close)
        self._spec = OperationSpec(
            check_name(operation, "an operation"),
            actor,
            data,
            given,
            result,
            codes,
            failed_if,
            on_close,
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
        decorated = Decorated(function, self._spec, self.bind, tenant=self._tenant, conn=self._conn)
        # A transparent proxy: to a type checker it is the function.
        return cast("F", _FunctionWrapper(cast("Any", function), decorated.wrapper()))

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


class _Annotations(dict[str, Any]):
    """The annotations of the function; as those of the class, an empty dictionary.

    Before Python 3.14, whoever asks a class for its annotations has an empty dictionary put into
    it, which would hide those of every function from then on. So this one is there already.
    """

    def __get__(self, wrapper: Any, _owner: type) -> Any:
        return self if wrapper is None else _wrapped(wrapper).__annotations__

    def __set__(self, wrapper: Any, annotations: Any) -> None:
        _wrapped(wrapper).__annotations__ = annotations


class _BoundFunctionWrapper(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # untyped C base
    """A bound method, which also pickles and copies as one does: by its object and name."""

    vars()["__annotations__"] = _Annotations()

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

    vars()["__annotations__"] = _Annotations()
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


def as_mapping(operation: str, option: str, given: Any) -> dict[Any, Any]:
    """Copy what an option maps; raises ``ConfigurationError`` unless it is a mapping."""
    try:
        return {} if given is None else {**given}
    except Exception as error:
        if is_interruption(error):
            raise
        raise ConfigurationError(
            f"emits({operation!r:.80}): {option}= takes a mapping, as in "
            f"{_EXAMPLES[option]}; the given {type(given).__name__} is none"
        ) from None


_EXAMPLES = {"fields": '{"size": 3}', "errors": "{TimeoutError: 'timeout'}"}


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


def check_on_close(operation: str, on_close: object) -> None:
    """Raise ``ConfigurationError`` unless it is known."""
    if on_close not in get_args(OnClose):
        raise ConfigurationError(
            f"emits({operation!r:.80}): on_close={shown(on_close)} is unknown; it says what it "
            "means that a generator's consumer stopped early: 'completed' (the default) or "
            "'cancelled'"
        )


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
    bound.pipeline.warn(("actor", bound.spec.name), "%s; %s", problem, WITHOUT["actor"])
    return None
