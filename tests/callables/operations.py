"""The operation that the table's callables record, and how its events are told."""

from __future__ import annotations

import asyncio
import contextvars
import threading

from tenantry import Event, current_operation, current_scope

ACME = "018f6f0e-0000-7000-8000-00000000000a"
OTHER = "018f6f0e-0000-7000-8000-00000000000b"


class WorkStarted(Event):
    item: str | None = None


class WorkCompleted(Event):
    item: str | None = None
    size: int | None = None


class WorkFailed(Event):
    item: str | None = None
    error_code: str


class InnerStarted(Event):
    pass


class InnerCompleted(Event):
    pass


class InnerFailed(Event):
    pass


class Noted(Event):
    pass


TAXONOMY = [
    WorkStarted,
    WorkCompleted,
    WorkFailed,
    InnerStarted,
    InnerCompleted,
    InnerFailed,
    Noted,
]


def told(events):
    """Tell the events as name, or as name and code."""
    return [
        record.name if record.error_code is None else (record.name, record.error_code)
        for record in events.records
    ]


def end_of(events):
    """Give the one terminal event of the one operation."""
    (end,) = [r for r in events.records if r.phase in {"completed", "failed"}]
    (start,) = [r for r in events.records if r.phase == "started"]
    assert start.operation_id == end.operation_id
    assert start.tenant_id == end.tenant_id
    assert start.parent_operation_id == end.parent_operation_id
    return end


def outcome(events):
    """Tell how the one operation ended: name, code and duration."""
    end = end_of(events)
    return end.name, end.error_code, end.duration_ms


def here():
    """Tell what is current: tenant and operation."""
    scope, operation = current_scope(), current_operation()
    return None if scope is None else scope.tenant, None if operation is None else operation.id


def in_thread(function):
    """Call it in a new thread, which inherits no context."""
    results = []

    def run():
        try:
            results.append((function(), None))
        except BaseException as error:  # noqa: BLE001  # raised again, in the caller's thread
            results.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    result, error = results[0]
    if error is not None:
        raise error
    return result


def in_empty_context(function):
    return contextvars.Context().run(function)


def in_copied_context(function):
    return contextvars.copy_context().run(function)


async def in_task(function):
    async def run():
        return await function()

    return await asyncio.create_task(run())


def frames_of(error):
    """Tell a traceback as function names, outermost first."""
    names, traceback = [], error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return names
