"""One run of an operation, from its start to its one terminal event. Knows nothing of wrapt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextvars import ContextVar, Token
from json.encoder import encode_basestring_ascii
from typing import Any, cast

from tenantry import context
from tenantry import pipeline as pipelines
from tenantry.budgets import NOBODY, Budgets
from tenantry.callables import outcome_of
from tenantry.codes import code_of, error_type
from tenantry.context import (
    Operation,
    Scope,
    current,
    current_operation,
    make_scope,
    running,
)
from tenantry.exceptions import InvalidEvent, InvalidTenant, TenantNotSet
from tenantry.interruptions import is_interruption
from tenantry.journal import Slot
from tenantry.operation import (
    BoundOperation,
    closing_at,
    pick,
    raise_for_scope,
    reason_of,
    scope_problem,
    tail,
)
from tenantry.pipeline import Pipeline
from tenantry.record import ABANDONED, Kind, event_text
from tenantry.results import NO_RESULT
from tenantry.sampling import Sampling
from tenantry.scopes import leave_scope
from tenantry.taxonomy import EventType
from tenantry.tracing import span_fragment


class Run(Operation):
    """One run of an operation. Its events are written by ``begin`` and by one ``end``."""

    # Defaults stand here, not in __init__: each assignment there costs every call.
    _scope: Scope | None = None
    _scope_token: Token[Scope | None] | None = None
    _token: Token[Operation | None] | None = None
    _pipeline_token: Token[Pipeline | None] | None = None
    _ended = False
    _opened = False
    _is_resumed = False
    _kept = True
    _rate: float | None = None
    """Where a budget limits it; else it is as declared."""
    _fragment = ""
    _extra = ""
    _begun = ""
    """The payload of the started event, where the completed event's may go on from it."""
    _started_at = 0
    _elapsed = 0
    _within: tuple[Scope | None, Operation | None] = (None, None)

    def __init__(self, bound: BoundOperation, values: dict[str, Any], conn: object) -> None:
        """Prepare; nothing is emitted before ``begin``."""
        self.id = bound.pipeline.new_id()
        self.conn = conn
        self._bound = bound
        self._values = values
        self.generation = context.fork_generation

    @property
    def pipeline(self) -> Pipeline:
        """Where its events go."""
        return self._bound.pipeline

    # The start.

    def begin(self, tenant: object, actor: str | None) -> None:
        """Emit the started event and become the current operation.

        Raises in strict mode only: ``TenantNotSet``, ``InvalidTenant``, ``InvalidEvent``.
        """
        bound = self._bound
        pipeline = bound.pipeline
        scope = current.get()
        try:
            if tenant is not None or actor is not None:
                scope = self._enter_scope(scope, tenant, actor)
            fragment = ""
            if scope is not None:
                rule, fragment = scope.resolved
                if rule is not pipeline.rule:
                    fragment = scope.fragment(pipeline.rule)
            self._scope = scope
            self._fragment = fragment
            extra = f'"operation_id":"{self.id}",'
            if running.get() is not None and (parent := current_operation()) is not None:
                extra += f'"parent_operation_id":"{parent.id}",'
            self._extra = extra + span_fragment()
            is_plain = fragment and not bound.is_checked and pipeline.budgets is None
            if is_plain or self._check_start():
                self._emit_start()
        except BaseException as error:
            self._leave_scope()
            if not isinstance(error, Exception) or is_interruption(error):
                if self._opened:  # the caller sees it, and the body will not run
                    self.end(error)
            else:
                self._close()
            raise
        self._token = running.set(self)
        self._started_at = pipeline.perf_counter_ns()

    def _enter_scope(self, scope: Scope | None, tenant: object, actor: str | None) -> Scope | None:
        if tenant is not None:
            scope = make_scope(tenant, actor, None)
        elif scope is not None:
            scope = scope.with_actor(cast("str", actor))
        else:
            return None
        self._scope_token = current.set(scope)
        return scope

    def _check_start(self) -> bool:
        """Do what few operations need: refuse a bad scope, warn of bad keys, decide on sampling.

        Says whether the start leaves a line. What is sampled out leaves none, not even a mark that
        it is open: that would cost as much, and take as much room.
        """
        bound = self._bound
        if not self._fragment and bound.pipeline.strict:
            raise_for_scope(self._scope, bound.spec.name)
        if bound.undeclared:
            bound.check_undeclared(bound.undeclared)
        sampling = bound.sampling
        budgets = bound.pipeline.budgets
        if budgets is not None and self.conn is None:
            events = (bound.started is not None) + (bound.completed is not None)
            scope = self._fragment or NOBODY
            limited = budgets.limit(sampling, scope, bound.spec.name, events=events)
            if limited is not None and limited is not sampling:
                sampling, self._rate = limited, limited.rate
        if sampling is not None:
            self._kept = self._decide(sampling)
        if bound.started is not None:
            if not self._fragment and self._kept:
                problem = scope_problem(self._scope)
                self._reject(bound.started, "started", self._values, problem)
            elif not self._kept:
                bound.pipeline.sample_out()
        return bool(self._fragment) and self._kept

    def _decide(self, sampling: Sampling) -> bool:
        name = None if sampling.key is None else self._bound.field_of(sampling.key)
        return sampling.decide(None if name is None else self._values.get(name), self.id)

    def _decide_failure(self, budgets: Budgets, event: EventType) -> tuple[float | None, bool]:
        """Give the rate of a failure, None for 1, and whether it is kept; by its own budget."""
        sampling = budgets.limit(None, self._fragment or NOBODY, event.name, failed=True)
        return (None, True) if sampling is None else (sampling.rate, sampling.keeps(self.id))

    def _emit_start(self) -> None:  # noqa: C901, PLR0912  # as _emit_end
        """Write the started event, or a mark that the operation is open where there is none."""
        bound = self._bound
        pipeline = bound.pipeline
        event = bound.started
        if event is None:
            if bound.failed is None:
                return
            name, data, as_row = bound.spec.name, self._start_data(), False
        else:
            name, as_row = event.name, True
            if pipeline.is_out_of_room:
                pipeline.drop(name, self._fragment)
                return
            try:
                data, cut = event.freeze(self._values, pipeline.max_payload_bytes)
                if cut:
                    pipeline.count(Slot.TRUNCATED, event=False)
                elif len(self._values) == bound.results.begins:
                    self._begun = data
            except InvalidEvent as error:
                if pipeline.strict:
                    raise
                if as_row:
                    self._reject(event, "started", self._values, error)
                data, as_row = self._start_data(), False
        last, closing = bound.tails[0], bound.closing
        if bound.sampling is not None or self._rate is not None:
            rate = self._rate
            if rate is None:
                rate = cast("Sampling", bound.sampling).rate
            last, closing = tail(event, rate, pipeline), closing_at(closing, rate)
        text = event_text(
            self.id,
            name,
            self._fragment,
            pipeline.now(),
            f'"phase":"started",{self._extra}',
            data,
            last,
        )
        if bound.failed is None:
            if as_row:
                pipeline.accept(Kind.EVENT, text)
            return
        self._opened = True
        if as_row:
            pipeline.accept(Kind.START, text + closing, self.id)
        else:
            pipeline.open_operation(self.id, text + closing)

    def _start_data(self) -> str:
        """Keep for an abandoned end what is known now; nothing where it does not hold."""
        failed = self._bound.failed
        if failed is None:
            return "{}"
        known = {
            failed.stored_keys.get(name, name): value
            for name, value in pick(failed, self._values).items()
        }
        try:
            return failed.freeze_known(known, self._bound.pipeline.max_payload_bytes)
        except InvalidEvent:
            return "{}"

    # The end.

    def end(self, error: BaseException | None, result: object = NO_RESULT) -> bytes | None:
        """Stop being current, and emit the terminal event; once.

        Gives the JSON of a completed event that is to go into the caller's own transaction, which
        ``hand`` or ``ahand`` then does. Raises interruptions only: mistakes of our own are logged.
        """
        bound = self._bound
        duration = (bound.pipeline.perf_counter_ns() - self._started_at) / 1e6
        if self._token is not None:
            self._leave_scope()
        if self._ended or self.generation != context.fork_generation:
            return None  # a forked child leaves the end to the process that started
        self._ended = True
        try:
            return self._emit_end(error, result, duration)
        except BaseException as problem:
            self._close()  # its line may be lost: it is not to look endless
            if not isinstance(problem, Exception):
                raise
            bound.pipeline.note_internal_error()
            return None

    def pause(self) -> None:
        """Stop being current, until ``resume``: there, in whatever context, it goes on as here."""
        self._elapsed = self._bound.pipeline.perf_counter_ns() - self._started_at
        operation = running.get()  # mostly itself, of which it holds no reference
        self._within = current.get(), None if operation is self else operation
        self._leave_scope()

    def resume(self) -> None:
        """Be current again, here, with what the body had made current by then."""
        scope, operation = self._within
        self._is_resumed = True
        self._scope_token = current.set(scope)
        self._token = running.set(operation or self)
        pipeline = self._bound.pipeline
        if (pipelines.current.get() or pipelines.configured) is not pipeline:
            self._pipeline_token = pipelines.current.set(pipeline)
        self._started_at = pipeline.perf_counter_ns() - self._elapsed

    def end_closed(self, result: object = NO_RESULT) -> bytes | None:
        """End a generator's run whose consumer stopped early: Python cannot tell why."""
        if self._bound.spec.on_close == "cancelled":
            return self.end(asyncio.CancelledError())
        return self.end(None, result)

    def finish_future(self, future: Any) -> None:
        """End the run of a function that returned a future, when that is done."""
        error, result = outcome_of(future)
        started_at = self._started_at
        self.resume()
        self._started_at = started_at  # the work went on meanwhile
        line = self.end(error, result if error is None else NO_RESULT)
        if line is not None:
            self.hand(line)

    def drop(self, *, is_closed: bool) -> None:
        """End a paused run that nobody can go on with; nothing where it has ended."""
        if self._ended:
            return
        self.resume()
        if is_closed:
            self.end_closed()
        else:
            self._code = self._code or ABANDONED
            self.end(None)

    def _leave_scope(self) -> None:
        if self._token is not None:
            put_back(running, self._token, self)
            if (before := running.get()) is not None and _has_ended(before):
                running.set(None)
            self._token = None
        if self._scope_token is not None:
            if self._is_resumed or self._scope is None:
                put_back(current, self._scope_token, self._scope)
            else:
                leave_scope(self._scope, self._scope_token)
            self._scope_token = None
        if self._pipeline_token is not None:
            put_back(pipelines.current, self._pipeline_token, self._bound.pipeline)
            self._pipeline_token = None

    def _emit_end(
        self, error: BaseException | None, result: object, duration: float
    ) -> bytes | None:
        bound = self._bound
        code = None
        if error is not None or self._code is not None or bound.spec.failed_if is not None:
            code = self._find_code(error, result)
        event = bound.completed if code is None else bound.failed
        if event is None or not self._is_wanted(event, code):
            self._close()
            return None
        data = None
        if code is None and self._begun and self._data is None and result is not NO_RESULT:
            data = bound.results.go_on(self._begun, result, bound.pipeline.max_payload_bytes)
        if data is None:
            data = self._freeze_end(event, error, result, code)
        return None if data is None else self._write_end(event, code, data, duration)

    def _find_code(self, error: BaseException | None, result: object) -> str | None:
        given: object = self._code
        if given is None and error is not None and self._data:
            given = self._data.get("error_code", self._data.get("errorCode"))
        try:
            spec = self._bound.spec
            code = code_of(error, result, given=given, errors=spec.errors, failed_if=spec.failed_if)
            return None if code is None else self._bound.pipeline.redaction.short_text(code)
        except Exception as problem:
            if is_interruption(problem):
                raise
            # It is of the application's own code, failed_if= included.
            self._warn_raised("the error code cannot be asked for", problem)
            return None if error is None else error_type(error)

    def _is_wanted(self, event: EventType, code: str | None) -> bool:
        """Say whether the terminal event is to be written; counted here where it is not."""
        pipeline = self._bound.pipeline
        kept = self._kept
        if code is not None:
            self._rate, kept = None, True
            if pipeline.budgets is not None:
                self._rate, kept = self._decide_failure(pipeline.budgets, event)
        if not kept:
            pipeline.sample_out()
            return False
        is_handed = code is None and self.conn is not None
        if self._opened or is_handed or not self._fragment or not pipeline.is_out_of_room:
            return True
        pipeline.drop(event.name, self._fragment)
        return False

    def _freeze_end(
        self, event: EventType, error: BaseException | None, result: object, code: str | None
    ) -> str | None:
        """Make the payload of the terminal event; None where the event is refused."""
        pipeline = self._bound.pipeline
        values = self._terminal_values(event, result, code)
        try:
            if not self._fragment:
                raise scope_problem(self._scope)
            data, cut = event.freeze(values, pipeline.max_payload_bytes)
            if cut:
                pipeline.count(Slot.TRUNCATED, event=False)
        except (InvalidEvent, InvalidTenant, TenantNotSet) as problem:
            self._reject(event, "completed" if code is None else "failed", values, problem)
            if pipeline.strict and error is not None:
                error.add_note(f"tenantry: the event {event.name} was refused: {problem}")
            return None
        return data

    def _write_end(
        self, event: EventType, code: str | None, data: str, duration: float
    ) -> bytes | None:
        bound = self._bound
        pipeline = bound.pipeline
        rate, last = self._rate, bound.tails[1]
        if code is None:
            extra = f'"phase":"completed",{self._extra}"duration_ms":{duration!r},'
        else:
            written = encode_basestring_ascii(code)
            extra = (
                f'"phase":"failed",{self._extra}"duration_ms":{duration!r},"error_code":{written},'
            )
        if code is not None or rate is not None:
            last = tail(event, 1.0 if rate is None else rate, pipeline)
        text = event_text(
            pipeline.new_id(), event.name, self._fragment, pipeline.now(), extra, data, last
        )
        if code is None and self.conn is not None:
            return text.encode()
        if self._opened:
            pipeline.accept(Kind.END, text, "", self.id)
        else:
            pipeline.accept(Kind.EVENT, text)
        return None

    def _terminal_values(
        self, event: EventType, result: object, code: str | None
    ) -> dict[str, Any]:
        """Merge the data: from ``set``, then keywords and arguments, then the result."""
        bound = self._bound
        values = self._values
        if result is not NO_RESULT:
            try:
                found = bound.results.of(type(result)).read(event, result, values)
                if found:
                    values = {**found, **values}
            except Exception as problem:
                if is_interruption(problem):
                    raise
                # It is of the application's own code, result= included.
                self._warn_raised("no data is taken from the result", problem)
        if self._data:
            given = {name: v for k, v in self._data.items() if (name := bound.field_of(k))}
            unknown = self._unknown()
            if unknown:
                self._warn_unknown(unknown)
            values = {**values, **given}
        if code is not None and event.error_code_field is not None:
            values = {**values, event.error_code_field: code}
        return values

    def _unknown(self) -> list[str]:
        """List the keys given to ``set`` that are not declared."""
        codes = ("error_code", "errorCode")
        field_of = self._bound.field_of
        return [key for key in self._data or () if field_of(key) is None and key not in codes]

    def _warn_raised(self, what: str, problem: Exception) -> None:
        self._bound.pipeline.warn(
            (what, self._bound.spec.name),
            "emits(%r): %s: %s was raised",
            self._bound.spec.name,
            what,
            error_type(problem),
        )

    def _warn_unknown(self, keys: list[str]) -> None:
        try:
            self._bound.check_undeclared(keys)
        except InvalidEvent as problem:  # strict, and yet a terminal event never raises
            self._bound.pipeline.warn(("set", *keys[:5]), "%s", problem)

    def _close(self, *, handed: bool = False) -> None:
        if self._opened:
            try:
                self._bound.pipeline.close_operation(self.id, handed=handed)
            except Exception:  # noqa: BLE001  # logged there; the body has run already
                self._bound.pipeline.note_internal_error()

    def abandon(self) -> None:
        """End without a terminal event: the outcome cannot be known."""
        self._leave_scope()
        if not self._ended:
            self._ended = True
            self._close()

    def _reject(
        self,
        event: EventType,
        phase: str,
        values: Mapping[str, Any],
        problem: Exception,
    ) -> None:
        declared = pick(event, values)
        bound = self._bound
        others = {key: value for key, value in values.items() if key not in declared}
        given = {**bound.spec.fields, **bound.spec.data}
        others |= {key: given.get(key) for key in bound.undeclared}
        others |= {key: (self._data or {})[key] for key in self._unknown()}
        ids: dict[str, str] = json.loads(f"{{{self._extra[:-1]}}}")
        bound.pipeline.reject(
            name=event.name,
            reason=reason_of(problem),
            detail=getattr(problem, "detail", "") or str(problem),
            scope=self._scope,
            phase=phase,
            event=event,
            data={event.stored_keys.get(key, key): value for key, value in declared.items()},
            other_keys={key: type(value).__name__ for key, value in others.items()},
            operation_id=self.id,
            parent_operation_id=ids.get("parent_operation_id"),
            closes=self._opened and phase != "started",
        )

    # The caller's own transaction.

    def hand(self, line: bytes) -> None:
        """Write the completed event into the caller's transaction; database errors propagate."""
        try:
            self._bound.pipeline.insert(self.conn, line)
        except BaseException as error:
            self._end_unhanded(error)
            raise
        self._close(handed=True)

    async def ahand(self, line: bytes) -> None:
        """Do as ``hand`` does, on an asynchronous connection."""
        try:
            await self._bound.pipeline.ainsert(self.conn, line)
        except BaseException as error:
            self._end_unhanded(error)
            raise
        self._close(handed=True)

    def _end_unhanded(self, error: BaseException) -> None:
        self._ended = False
        self.end(error)


def _has_ended(operation: Operation) -> bool:
    """Say whether it is a run that is over: nobody returns to it."""
    return isinstance(operation, Run) and operation._ended  # noqa: SLF001  # our own


def put_back(variable: ContextVar[Any], token: Token[Any], mine: object) -> None:
    """Undo a ``set``, also where a generator that was left open goes on in another context."""
    try:
        variable.reset(token)
    except ValueError:
        if variable.get() is mine:  # there it was taken along; else there is nothing to undo
            before = token.old_value
            variable.set(None if before is Token.MISSING else before)
