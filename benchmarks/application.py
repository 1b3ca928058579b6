"""The help desk under load over HTTP: with Tenantry, without, and with OpenTelemetry instead.

``python -m benchmarks.application MODE`` is the help desk in one of three modes: a process each,
all of them beside one PostgreSQL, on loopback. Those that are not asked are idle.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import wraps
from operator import truediv
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.peers import logger_provider
from benchmarks.processes import ROOT
from benchmarks.results import Goal, Measurement, Section, at_least

MODES = {"off": "without", "on": "with Tenantry", "otel": "with OpenTelemetry logs"}
CLIENTS = 8
"""Requests under way at once, each client with its connection and its tenant."""

MESSAGES = 4
"""Of a conversation, all answered out of a document."""

DOCUMENT = (
    b"# Refunds\n\nA refund is paid back within five working days to the card that was used.\n"
)
QUESTION = "Within how many working days is a refund paid back?"
LOGIN = "helpdesk_app"
NOTE = (
    "With Tenantry, the start of a conversation also inserts its event, in its transaction, and"
    " all others are stored in the same database while it is under load. synchronous_commit is off"
    " for all three: the disk is not what is measured."
)


def measure(*, rounds: int, seconds: float) -> Section:
    found = run(rounds, seconds)
    measurements = [
        Measurement.of(f"{label}: {name}", unit, [each[key] for each in found[mode]])
        for name, unit, key in (
            ("requests", "requests/s", "rate"),
            ("CPU of the application", "us/request", "cpu"),
            ("p50", "ms", "p50"),
            ("p99", "ms", "p99"),
        )
        for mode, label in MODES.items()
    ]
    rates = {mode: [each["rate"] for each in found[mode]] for mode in MODES}
    ratios = [
        Measurement.of(
            f"requests/s {MODES[mode]} / without", "x", [*map(truediv, rates[mode], off)]
        )
        for mode, off in (("on", rates["off"]), ("otel", rates["off"]))
    ]
    return Section(
        f"The help desk under load: {CLIENTS} clients, {seconds:g} s each",
        (*measurements, *ratios),
        goals(ratios[0].median),
        (NOTE,),
    )


def goals(ratio: float | None = None) -> tuple[Goal, ...]:
    return (at_least("the help desk's requests/s, with / without", 0.98, " x", ratio),)


# The load.


class Client:
    """One connection that is kept. What httpx costs would be most of what is measured."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self, port: int) -> None:
        self._streams = await asyncio.open_connection("127.0.0.1", port)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()

    async def ask(self, method: str, path: str, content: object) -> Any:
        """Send a request, with bytes or JSON; gives the JSON of its answer."""
        if self._streams is None:
            raise RuntimeError("connect first")
        reader, writer = self._streams
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        (length,) = (line.split(":")[1] for line in lines if line.startswith("content-length:"))
        answer = await reader.readexactly(int(length))
        if not lines[0].startswith("http/1.1 20"):
            raise RuntimeError(f"{method} {path} was answered by {lines[0]}: {answer[:500]!r}")
        return json.loads(answer)


async def converse(client: Client, end: float, took: list[float]) -> None:
    """Ingest a document, and have conversations about it, until the time is over."""

    async def ask(method: str, path: str, content: object) -> Any:
        begin = time.perf_counter()
        answer = await client.ask(method, path, content)
        took.append(time.perf_counter() - begin)
        return answer

    while time.perf_counter() < end:
        await ask("POST", "/v1/sources", {"source_type": "file", "url": "refunds.md"})
        started = await ask("POST", "/v1/conversations", {"session_id": "visitor"})
        conversation = f"/v1/conversations/{started['id']}"
        for _ in range(MESSAGES):
            reply = await ask("POST", f"{conversation}/messages", {"text": QUESTION})
            if reply["escalated"]:
                raise RuntimeError(f"the help desk did not find its document: {reply}")


async def load(keys: list[str], port: int, pid: int, seconds: float) -> dict[str, float]:
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  # the embedded server brings it

    process = psutil.Process(pid)
    clients = [Client(key) for key in keys]
    took: list[float] = []
    for client in clients:
        await client.connect(port)
        await client.ask("PUT", "/v1/files/refunds.md", DOCUMENT)
    before, begin = process.cpu_times(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(converse(client, begin + seconds, took))
    elapsed, after = time.perf_counter() - begin, process.cpu_times()
    for client in clients:
        client.close()
    cpu = after.user + after.system - before.user - before.system
    percentiles = quantiles(took, n=100)
    return {
        "rate": len(took) / elapsed,
        "cpu": cpu / len(took) * 1e6,
        "p50": percentiles[49] * 1e3,
        "p99": percentiles[98] * 1e3,
    }


def run(rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Start everything, measure round by round, and stop everything."""
    sys.path.insert(0, str(ROOT / "examples"))
    # Found there, as what it runs on is: only where this is measured.
    import psycopg  # noqa: PLC0415
    from helpdesk.database import prepare  # noqa: PLC0415
    from helpdesk.demo import processes  # noqa: PLC0415
    from helpdesk.tenants import create_tenant  # noqa: PLC0415
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415

    from tenantry.database import embedded  # noqa: PLC0415

    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with processes.terminable(), ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenantry-bench-")))
        scratch.chmod(0o755)  # as root, the embedded server runs as a user of its own
        server = embedded.start(scratch / "postgres")
        stack.callback(server.stop)
        prepare(server.dsn, login=LOGIN)
        with psycopg.connect(server.dsn) as connection:
            # The disk would be most of what is measured, and it is no steady one.
            connection.execute("ALTER DATABASE postgres SET synchronous_commit = off")
            keys = [
                create_tenant(connection, f"Tenant {number}", plan="business")[1]
                for number in range(CLIENTS)
            ]
        services = {}
        for mode in MODES:
            services[mode] = processes.start(
                stack,
                mode,
                [sys.executable, "-m", "benchmarks.application", mode],
                variables={
                    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'examples'}",
                    "PYDANTIC_DISABLE_PLUGINS": "logfire-plugin",
                    "HELPDESK_DSN": make_conninfo(server.dsn, user=LOGIN),
                    "HELPDESK_FILES": str(scratch / "files"),
                    "TENANTRY_JOURNAL": str(scratch / "journal"),
                },
                folder=ROOT,
                log=scratch / f"{mode}.log",
            )
        ports = {
            mode: int(each.wait_for_url().rpartition(":")[2]) for mode, each in services.items()
        }
        for number in range(-1, rounds):  # the first warms up
            for mode in MODES if number % 2 == 0 else reversed(MODES):
                part = asyncio.run(load(keys, ports[mode], services[mode].process.pid, seconds))
                if number >= 0:
                    found[mode].append(part)
        for service in services.values():
            service.stop()
        with psycopg.connect(server.dsn) as connection:
            check(connection)
    return found


def check(connection: Any) -> None:
    """See that what was measured did record: two events for each message, two for each source."""
    stored = dict(
        connection.execute("SELECT name, count(*) FROM tenantry.events GROUP BY name").fetchall()
    )
    ratio = stored.get("message_sent", 0) / stored.get("conversation_started", 1)
    if not 2 * MESSAGES - 1 <= ratio <= 2 * MESSAGES or "ingest_completed" not in stored:
        raise RuntimeError(f"the help desk's events are not all there: {stored}")


# The application.


def record_nothing() -> None:
    """Leave Tenantry unconfigured: its calls return at once."""
    import tenantry  # noqa: PLC0415

    tenantry.configure = lambda **_: None  # type: ignore[assignment]  # on purpose


def record_by_opentelemetry() -> None:
    """Put log records in the place of events, before the help desk's modules take the names."""
    import tenantry  # noqa: PLC0415

    record_nothing()
    provider, _ = ExitStack().enter_context(logger_provider())
    logger = provider.get_logger("helpdesk")

    def emit(name: str, **attributes: Any) -> None:
        scope = tenantry.current_scope()
        logger.emit(
            timestamp=time.time_ns(),
            event_name=name,
            attributes={
                "tenant_id": str(scope and scope.tenant),
                "actor_id": str(scope and scope.actor),
                **attributes,
            },
        )

    def log_event(event: Any, **_: object) -> None:
        emit(event.event_name, **event.model_dump(exclude_none=True, by_alias=True))

    async def alog_event(event: Any, **_: object) -> None:
        log_event(event)

    def emits(operation: str, **_: object) -> Callable[[Any], Any]:
        """Stand for the one function of the help desk that is decorated and called here."""

        def decorate(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            @wraps(function)
            async def recorded(source_type: str, url: str, *others: Any) -> Any:
                begin = time.perf_counter()
                emit(f"{operation}_started", sourceType=source_type, url=url)
                report = await function(source_type, url, *others)
                emit(
                    f"{operation}_completed",
                    sourceType=source_type,
                    url=url,
                    docs=report.docs,
                    chunks=report.chunks,
                    duration_ms=(time.perf_counter() - begin) * 1e3,
                )
                return report

            return recorded

        return decorate

    tenantry.log_event, tenantry.alog_event, tenantry.emits = log_event, alog_event, emits  # type: ignore[assignment,misc]  # on purpose


def serve(mode: str) -> None:
    import uvicorn  # noqa: PLC0415

    if mode == "off":
        record_nothing()
    elif mode == "otel":
        record_by_opentelemetry()
    from helpdesk.app import app  # noqa: PLC0415  # takes Tenantry's names as they are now

    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False, reset_contextvars=True)


if __name__ == "__main__":
    serve(sys.argv[1])
