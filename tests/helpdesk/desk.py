"""A help desk that really runs: its processes, its tenants, and what they left in the database."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psycopg
from helpdesk.tenants import create_tenant
from psycopg.rows import dict_row

from tenantry import Sampling
from tenantry.cli.books import read_journals, read_positions
from tenantry.database.connect import destination_fingerprint

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE = 20.0
"""Seconds that a test waits for something that takes a fraction of one."""

WEBHOOK_SECRET = "whsec_known_to_stripe_and_to_the_desk"
FETCH_TIMEOUT = 1.5
SAMPLE_RATE = 0.5

Row = dict[str, Any]
T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = DEADLINE) -> T:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        threading.Event().wait(0.02)
    return result


# Processes.


class Program:
    """A program in a process group of its own, so that none of its children can be overlooked."""

    def __init__(self, name: str, directory: Path, variables: dict[str, str], *arguments: str):
        self.name = name
        self.log = directory / f"{name}.log"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("COVERAGE", "HELPDESK_", "OTEL_", "TENANTRY_"))
        }
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={
                    **inherited,
                    "PYTHONPATH": str(EXAMPLES),
                    "PYTHONUNBUFFERED": "1",
                    **variables,
                },
                start_new_session=True,
            )

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        def look() -> re.Match[str] | None:
            text = self.log.read_text()
            assert self.process.poll() is None, f"{self.name} ended:\n{text[-3000:]}"
            return re.search(pattern, text)

        return wait_until(look, 40)

    def members(self) -> list[int]:
        """Give the processes of its group that run."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pgid=,pid=,stat="], capture_output=True, text=True, check=True
        )
        lines = [line.split() for line in listed.stdout.splitlines()]
        return [
            int(pid)
            for group, pid, state in lines
            if int(group) == self.process.pid and state[0] != "Z"
        ]

    def stop(self) -> int:
        """Ask it to end, and give its exit code; nothing that it started is left."""
        self.process.terminate()
        try:
            code = self.process.wait(timeout=30)
            wait_until(lambda: not self.members(), 10)
        except BaseException:
            with_children = self.members()
            for pid in with_children:
                os.kill(pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            print(self.log.read_text()[-5000:], file=sys.stderr)  # noqa: T201  # pytest shows it
            raise
        return code


def start_server(
    name: str, directory: Path, variables: dict[str, str], app: str, *options: str
) -> Program:
    return Program(
        name,
        directory,
        variables,
        *("uvicorn", app, "--host", "127.0.0.1", "--port", "0", "--no-access-log", *options),
    )


def url_of(server: Program) -> str:
    return server.wait_for_line(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")[1]


# The database.


class DeskDatabase:
    """Tenantry's tables and the help desk's; the application connects as ``login``."""

    def __init__(self, superuser: str, login: str) -> None:
        self.superuser = superuser
        self.login = login
        self.destination = destination_fingerprint(superuser, "tenantry")
        self._connection = psycopg.connect(superuser, autocommit=True)

    @property
    def connection(self) -> psycopg.Connection:
        """Give the connection, or a new one where another test has stopped the server."""
        try:
            self._connection.execute("SELECT")
        except psycopg.OperationalError:
            self._connection.close()
            self._connection = psycopg.connect(self.superuser, autocommit=True)
        return self._connection

    def close(self) -> None:
        self._connection.close()

    def execute(self, query: str, parameters: list[object] | None = None) -> list[Row]:
        """Run one statement as superuser, whom row-level security does not touch."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


# The help desk.


@dataclass
class Desk:
    """One running application, with the journals of its processes."""

    database: DeskDatabase
    directory: Path
    variables: dict[str, str]
    url: str
    client: httpx.Client
    programs: list[Program]
    world: str = ""

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def files_of(self, tenant_id: UUID) -> Path:
        return self.directory / "files" / str(tenant_id)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request on a connection of its own: any worker may get it."""
        return self.client.request(method, self.url + path, **options)

    def settle(self) -> None:
        """Wait until all that its processes have accepted so far is stored or rejected."""

        def is_settled() -> bool:
            positions = read_positions(self.database.connection, "tenantry")
            journals = read_journals(self.journal, self.database.destination, positions)
            return not any(journal.pending for journal in journals)

        wait_until(is_settled)

    def stop(self) -> dict[str, int]:
        """Stop its processes and give their exit codes; stopped already, do nothing."""
        self.client.close()
        programs, self.programs = self.programs, []
        return {program.name: program.stop() for program in programs}


def desk_variables(
    database: DeskDatabase, directory: Path, world: str, **others: str
) -> dict[str, str]:
    (directory / "journal").mkdir(mode=0o700)
    return {
        "HELPDESK_DSN": database.login,
        "HELPDESK_FILES": str(directory / "files"),
        "HELPDESK_STRIPE_API_KEY": "sk_test_123",
        "HELPDESK_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "HELPDESK_STRIPE_API": world,
        "HELPDESK_ALLOW_PRIVATE_ADDRESSES": "true",
        "HELPDESK_MESSAGE_SAMPLE_RATE": str(SAMPLE_RATE),
        "HELPDESK_FETCH_TIMEOUT": str(FETCH_TIMEOUT),
        "HELPDESK_POLL_SECONDS": "0.05",
        "HELPDESK_RETRY_SECONDS": "0.01",
        "TENANTRY_JOURNAL": str(directory / "journal"),
        "TENANTRY_SHIP_INTERVAL": "0.05",
        **others,
    }


def start_desk(database: DeskDatabase, directory: Path, *, world: str = "", **others: str) -> Desk:
    """Start an application with two workers; desks share the database, and nothing else."""
    variables = desk_variables(database, directory, world, **others)
    # uvicorn gives a worker that dies while it is asked for its health that much time to answer,
    # and one that starts on a busy machine must not be taken for dead.
    options = ("--workers", "2", "--timeout-worker-healthcheck", "15")
    server = start_server("app", directory, variables, "helpdesk.app:app", *options)
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(limits=limits, timeout=30, verify=False)
    try:
        url = url_of(server)
        wait_until(lambda: is_up(client, url))
        return Desk(database, directory, variables, url, client, [server], world)
    except BaseException:
        client.close()
        server.stop()
        raise


def is_up(client: httpx.Client, url: str) -> bool:
    """Say whether a server answers; it says that it runs a little earlier."""
    try:
        return client.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


# A tenant of it.


@dataclass
class Customer:
    """A tenant, as somebody who has its API key."""

    desk: Desk
    id: UUID
    key: str
    seen: list[str] = field(default_factory=list)
    """The bodies of all answers."""

    @classmethod
    def join(cls, desk: Desk, *, plan: str = "team", key_name: str = "default") -> Customer:
        with psycopg.connect(desk.database.superuser) as connection:
            return cls(desk, *create_tenant(connection, "Acme", plan=plan, key_name=key_name))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        answer = self.desk.request(method, path, headers=headers, **options)
        self.seen.append(answer.text)
        return answer

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **options)

    def put(self, path: str, body: object, **options: Any) -> httpx.Response:
        return self.request("PUT", path, json=body, **options)

    def upload(self, path: str, content: bytes, **options: Any) -> httpx.Response:
        return self.request("PUT", f"/v1/files/{path}", content=content, **options)

    def ingest(self, source_type: str, url: str, **options: Any) -> httpx.Response:
        body = {"source_type": source_type, "url": url}
        return self.post("/v1/sources", body, **options)

    def teach(self, text: str, path: str = "guide.txt") -> None:
        assert self.upload(path, text.encode()).status_code == 201
        assert self.ingest("file", path).status_code == 201

    def start_conversation(self, **options: Any) -> str:
        answer = self.post("/v1/conversations", {"session_id": "s-1"}, **options)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def start_sampled_conversation(self) -> str:
        """Start conversations until there is one whose messages are recorded."""
        return wait_until(lambda: next(iter(filter(is_sampled, [self.start_conversation()])), None))

    def say(self, conversation_id: str, text: str, **options: Any) -> httpx.Response:
        path = f"/v1/conversations/{conversation_id}/messages"
        return self.post(path, {"text": text}, **options)

    def escalate(self, **options: Any) -> str:
        """Have a conversation passed on to people, and give its id."""
        conversation_id = self.start_conversation()
        answer = self.say(conversation_id, "May I speak to a human?", **options)
        assert answer.json()["escalated"], answer.text
        return conversation_id

    def integrate(self, url: str, type_: str = "webhook") -> Row:
        answer = self.put(f"/v1/integrations/{type_}", {"url": url})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rows(self, table: str) -> list[Row]:
        return self.desk.database.execute(
            f"SELECT * FROM helpdesk.{table} WHERE tenant_id = %s", [self.id]
        )

    def plan(self) -> tuple[str, str]:
        (row,) = self.desk.database.execute(
            "SELECT plan, plan_status FROM helpdesk.tenants WHERE id = %s", [self.id]
        )
        return row["plan"], row["plan_status"]

    def events(self, *names: str) -> list[Row]:
        """Give what is stored of this tenant (of these names), once all that was accepted is."""
        self.desk.settle()
        return self.desk.database.execute(
            "SELECT * FROM tenantry.events"
            " WHERE tenant_id = %s AND (name = ANY(%s) OR %s) ORDER BY created_at, id",
            [self.id, list(names), not names],
        )

    def wait_for_events(self, count: int, *names: str) -> list[Row]:
        """Wait for events of the dispatcher, which works in its own time."""
        return wait_until(lambda: found if len(found := self.events(*names)) >= count else [])

    def event(self, name: str) -> Row:
        (row,) = self.events(name)
        return row


def is_sampled(conversation_id: str) -> bool:
    return Sampling(SAMPLE_RATE).keeps(conversation_id)


# A web server whose answers a test chooses.


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


class Site:
    """Gives the replies of a path in turn, and the last one from then on."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.received: list[Received] = []
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def do_POST(self) -> None:
                site.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that does not wait for the end

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def serve(self, path: str, *replies: Reply) -> str:
        self.replies[path] = list(replies)
        return self.url + path

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.received.append(Received(handler.path, dict(handler.headers), body))
        replies = self.replies[handler.path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.hangs:
            self.closing.wait(60)
            return
        handler.send_response(reply.status)
        headers = {"Content-Type": "text/html; charset=utf-8", **reply.headers}
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@contextmanager
def running_site() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.close()
