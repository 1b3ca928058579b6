"""Delivers what the outbox holds: ``python -m helpdesk.dispatcher``, a process of its own.

Several may run. Each delivery is made at least once: a delivery is claimed by putting its next
attempt off, as a lease, and no transaction is open while the endpoint is waited for. A dispatcher
that dies before it has recorded the outcome leaves the claim to end by itself, and the message is
sent again; its ``webhook-id`` stays the same, so that the receiver can tell.
"""

import asyncio
import json
import logging
import random
import signal
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import psycopg
from opentelemetry import propagate
from standardwebhooks import Webhook

import tenantry
from helpdesk.database import Pool, make_pool
from helpdesk.outbound import AddressRefused, make_client
from helpdesk.settings import settings
from helpdesk.tracing import set_up_tracing, tracer
from tenantry import emits, tenant

logger = logging.getLogger(__name__)

CONCURRENCY: Final = 8
"""Deliveries at once."""

BACKOFF: Final = (1, 5, 30, 120)
"""Before the second attempt and each further one, in units of ``settings().retry_seconds``."""

LEASE_SECONDS: Final = 60
"""How long a claim holds beyond the time that a request may take."""

ERRORS: Final[dict[type[BaseException], str]] = {
    AddressRefused: "address_refused",
    httpx.InvalidURL: "address_refused",
    httpx.TimeoutException: "timeout",
    TimeoutError: "timeout",
    httpx.RequestError: "unreachable",
}

# Every tenant's deliveries: the dispatcher works for all of them, and enters the scope of each.
_CLAIM: Final = """
    WITH due AS (
        SELECT id FROM helpdesk.outbox WHERE state = 'waiting' AND next_attempt_at <= now()
         ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE helpdesk.outbox
       SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => %s)
      FROM due, helpdesk.integrations
     WHERE outbox.id = due.id AND integrations.tenant_id = outbox.tenant_id
       AND integrations.id = outbox.integration_id
    RETURNING outbox.*, integrations.type, integrations.url, integrations.secret
"""

# By the number of the attempt: where the lease has run out, the delivery is another's by now.
_RECORD: Final = """
    UPDATE helpdesk.outbox
       SET state = %(state)s, last_error_code = %(code)s,
           next_attempt_at = now() + make_interval(secs => %(delay)s)
     WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND attempts = %(attempts)s
"""


async def main() -> None:
    """Deliver until SIGTERM or SIGINT; what is in hand then is finished."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    set_up_tracing("helpdesk-dispatcher")
    tenantry.configure(
        dsn=settings().dsn, service="helpdesk-dispatcher", taxonomy="helpdesk.events"
    )
    async with make_pool(settings().dsn, settings().pool_size) as pool, make_client() as client:
        print("dispatcher ready", flush=True)
        await dispatch(pool, client, stop)
    await tenantry.ashutdown()


async def dispatch(pool: Pool, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
    slots = asyncio.Semaphore(CONCURRENCY)
    async with asyncio.TaskGroup() as deliveries:  # left when the last of them is finished
        while True:
            await slots.acquire()
            if stop.is_set():
                return
            row = await claim(pool)
            if row is None:
                slots.release()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), settings().poll_seconds)
            else:
                task = deliveries.create_task(deliver(pool, client, row))
                task.add_done_callback(lambda _: slots.release())


async def claim(pool: Pool) -> dict[str, Any] | None:
    """Take the delivery that is due longest; None where none is, or the database is away."""
    try:
        async with pool.connection() as connection:
            cursor = await connection.execute(_CLAIM, [settings().fetch_timeout + LEASE_SECONDS])
            return await cursor.fetchone()
    except psycopg.Error:
        logger.exception("nothing can be claimed; trying again")
        return None


async def deliver(pool: Pool, client: httpx.AsyncClient, row: dict[str, Any]) -> None:
    """Make one attempt, and record how it went."""
    try:
        with (
            tenant(row["tenant_id"], actor="dispatcher", correlation=row["correlation"]),
            tracer.start_as_current_span("deliver", context=propagate.extract(row["headers"])),
        ):
            code = await attempt(client, row)
        async with pool.connection() as connection:
            await connection.execute(_RECORD, {**row, **next_step(row["attempts"], code)})
    except Exception:
        logger.exception("delivery %s: it is tried again when the claim has ended", row["id"])


async def attempt(client: httpx.AsyncClient, row: dict[str, Any]) -> str | None:
    """Give None when the endpoint took it, else an error code."""
    body = json.dumps(row["payload"])
    now = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": str(row["id"]),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(row["secret"]).sign(str(row["id"]), now, body),
    }
    try:
        status = await post(
            client,
            row["url"],
            body,
            headers,
            integration_id=str(row["integration_id"]),
            type=row["type"],
        )
    except tuple(ERRORS) as error:
        return next(code for kind, code in ERRORS.items() if isinstance(error, kind))
    return failure(status)


def failure(status: int) -> str | None:
    return None if 200 <= status < 300 else f"http_{status}"


# integration_succeeded or integration_failed: the argument names are the events' keys. What is
# raised has its code from errors=, and an answer that is no success, which is not, from failed_if=.
@emits("integration", errors=ERRORS, failed_if=failure)
async def post(
    client: httpx.AsyncClient,
    url: str,
    body: str,
    headers: dict[str, str],
    *,
    integration_id: str,  # noqa: ARG001
    type: str,  # noqa: A002, ARG001
) -> int:
    """Call a tenant's endpoint; gives the status. The body of its answer is not read."""
    async with (
        asyncio.timeout(settings().fetch_timeout),  # in all: httpx limits each step by itself
        client.stream("POST", url, content=body, headers=headers) as response,
    ):
        return response.status_code


def next_step(attempts: int, code: str | None) -> dict[str, Any]:
    """Say what becomes of a delivery after so many attempts, the last of which gave ``code``."""
    if code is None:
        return {"state": "delivered", "code": None, "delay": 0}
    is_final = code.startswith("http_4") and code not in {"http_408", "http_425", "http_429"}
    if is_final or attempts > len(BACKOFF):
        return {"state": "given_up", "code": code, "delay": 0}
    delay = BACKOFF[attempts - 1] * settings().retry_seconds * random.uniform(0.8, 1.2)
    return {"state": "waiting", "code": code, "delay": delay}


if __name__ == "__main__":
    asyncio.run(main())
