"""What customers do: each function is one series of requests, as a browser would send it."""

import asyncio
import os
import signal
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from helpdesk.demo.ledger import Customer, Ledger, Session, send
from helpdesk.demo.processes import DemoFailed

Action = Callable[[Session], Awaitable[None]]

CONCURRENCY: Final = 12
"""Customers that are busy at once."""

BIG_FOLDER: Final = "library"
"""All documents of a tenant: long enough an ingestion to be killed in the middle."""

_PATIENCE: Final = 30.0
"""Seconds to wait for a worker to be replaced."""

_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that a customer does."""

    customer: Customer
    name: str
    action: Action


@dataclass(slots=True)
class Kill:
    """The worker that was killed, and who took its place."""

    before: set[int] = field(default_factory=set)
    """Process ids of the workers before."""
    victim: int = 0
    request_id: str = ""
    """Of the ingestion that it was in the middle of."""
    after: set[int] = field(default_factory=set)


class Desk:
    """The help desk as it is reached from outside."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.ledger: Final = Ledger()
        self.workers: set[int] = set()
        # Each request has a connection of its own: those that are kept stay with one worker.
        limits = httpx.Limits(max_connections=2 * CONCURRENCY, max_keepalive_connections=0)
        self.client: Final = httpx.AsyncClient(base_url=url, limits=limits)

    async def run(
        self, jobs: Sequence[Job], *, at: int = -1, event: asyncio.Event | None = None
    ) -> None:
        """Do all jobs, so many at once; sets the event when ``at`` of them are done."""
        waiting = deque(jobs)
        done = 0

        async def work() -> None:
            nonlocal done
            while waiting:
                job = waiting.popleft()
                await job.action(Session(self.client, self.ledger, job.customer, job.name))
                done += 1
                if done == at and event is not None:
                    event.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(work())

    async def wait_for_workers(self) -> None:
        """Wait until both workers answer."""
        self.workers = await self.find_workers(2)

    async def kill_a_worker(self, customer: Customer) -> Kill:
        """Kill -9 a worker that ingests a large folder."""
        kill = Kill(before=self.workers)
        for number in range(_TRIES):
            # One connection, so that both requests go to the same worker.
            one = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(base_url=self.url, limits=one) as client:
                kill.victim = (await client.get("/health")).json()["pid"]
                session = Session(client, self.ledger, customer, f"big-{number}")
                kill.request_id = f"big-{number}.1"
                ingestion = asyncio.create_task(ingest(session, "file", BIG_FOLDER))
                await asyncio.sleep(0.4 / 2**number)
                if not ingestion.done():
                    os.kill(kill.victim, signal.SIGKILL)
                    await ingestion
                    break
        else:
            raise DemoFailed(f"{BIG_FOLDER!r} is ingested too fast to be killed in the middle")
        return kill

    async def find_workers(self, count: int, *, without: int = 0) -> set[int]:
        """Ask for the health, each time by a new connection, until so many workers answered."""
        found: set[int] = set()
        deadline = time.monotonic() + _PATIENCE
        while len(found) < count:
            if time.monotonic() >= deadline:
                raise DemoFailed(f"{len(found)} of {count} workers answer, after {_PATIENCE} s")
            requests = [self._ask_for_health() for _ in range(4)]
            found.update(pid for pid in await asyncio.gather(*requests) if pid not in {0, without})
            await asyncio.sleep(0.1)
        return found

    async def _ask_for_health(self) -> int:
        async with httpx.AsyncClient(base_url=self.url) as client:
            response = await send(client, "GET", "/health")
            return 0 if response is None else int(response.json()["pid"])


# What customers do.


async def converse(session: Session, texts: Sequence[str]) -> None:
    """Start a conversation and send messages, until there is no answer."""
    visitor = f"visitor-{zlib.crc32(texts[0].encode()):08x}"
    started = await session.call(
        "start conversation", "POST", "/v1/conversations", json={"session_id": visitor}
    )
    if started is None or started.status_code != 201:
        return
    conversation_id = started.json()["id"]
    for text in texts:
        answer = await session.call(
            "send message",
            "POST",
            f"/v1/conversations/{conversation_id}/messages",
            json={"text": text},
            conversation_id=conversation_id,
        )
        if answer is None or answer.status_code != 200:
            return


async def import_past(session: Session, conversations: list[dict[str, Any]]) -> None:
    await session.call(
        "import conversations",
        "POST",
        "/v1/imports/conversations",
        conversations=len(conversations),
        messages=sum(len(each["messages"]) for each in conversations),
        json={"conversations": conversations},
    )


async def upload(session: Session, path: str, body: bytes) -> None:
    await session.call("upload file", "PUT", f"/v1/files/{path}", content=body)


async def ingest(session: Session, source_type: str, url: str) -> None:
    await session.call(
        "ingest source", "POST", "/v1/sources", json={"source_type": source_type, "url": url}
    )


async def integrate(session: Session, kind: str, url: str) -> None:
    await session.call("set integration", "PUT", f"/v1/integrations/{kind}", json={"url": url})


async def look(session: Session) -> None:
    await session.call("look at activity", "GET", "/v1/activity")
