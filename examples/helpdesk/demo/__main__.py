"""The demonstration: the help desk under a real load from outside, with a worker that is killed.

Owns the scratch directory, the server and the processes, and leaves none of them behind.
"""

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from helpdesk.database import prepare
from helpdesk.demo import books, processes, proof, report
from helpdesk.demo.corpus import read_documents
from helpdesk.demo.ledger import Customer
from helpdesk.demo.load import Desk, Kill
from helpdesk.demo.output import heading, say, step
from helpdesk.demo.payments import Stripe
from helpdesk.demo.plan import PROFILES, Plan
from helpdesk.demo.processes import DemoFailed, Service, held, wait_until
from helpdesk.tenants import create_tenant
from tenantry.database import embedded

EXAMPLES: Final = Path(__file__).parents[2]
LOGIN: Final = "helpdesk_app"
"""What the help desk connects as. It is no superuser: row-level security holds for it."""

DOCUMENTS: Final = 360
CONVERSATIONS: Final = 500
KILL_AFTER: Final = 0.4
"""Of the load."""

WEBHOOK_SECRET: Final = "whsec_of_the_demonstration"  # noqa: S105  # the world's, and made up
QUIET: Final = 8.0
"""Seconds to wait for the first attempts at all deliveries; later ones are not waited for."""


class Demo:
    """One run. What it makes is registered with ``stack`` before an interrupt can come between."""

    def __init__(self, stack: ExitStack, *, seed: int, keep: bool) -> None:
        self._stack = stack
        self._seed = seed
        self._keep = keep
        self._services: list[Service] = []

    def run(self) -> bool:
        step(f"the help desk's demonstration, seed {self._seed}")
        with held():
            self._scratch = Path(tempfile.mkdtemp(prefix="helpdesk-demo-"))
            self._stack.callback(shutil.rmtree, self._scratch, ignore_errors=True)
        self._journal = self._scratch / "journal"
        self._scratch.chmod(0o755)  # as root, the embedded server runs as a user of its own
        world = self._start("the world", "uvicorn", "helpdesk.demo.world:app", "--port", "0")
        self._start_database()
        world_url = world.wait_for_url()
        self._start_help_desk(world_url)
        documents = read_documents(DOCUMENTS)
        size = sum(len(document.text) for document in documents)
        step(f"read {len(documents)} documents of this machine, {size:,} characters")
        url = self._app.wait_for_url()
        self._dispatcher.wait_for_line(re.compile("^dispatcher ready$", re.MULTILINE))
        with httpx.Client(base_url=world_url) as outside:
            self._kill, self._desk = asyncio.run(self._load(url, world_url, documents))
            self._settle()
            answers = None if self._keep else outside.get("/hooks").json()
        good = self._report(answers)
        step("done")
        if self._keep:
            self._stay(url, world_url)
        return good

    # The processes.

    def _start_database(self) -> None:
        step("starting PostgreSQL, embedded: nothing to install")
        with held():
            server = embedded.start(self._scratch / "postgres")
            self._stack.callback(server.stop)
        self._dsn = server.dsn
        prepare(self._dsn, login=LOGIN)
        with psycopg.connect(self._dsn) as connection:
            self._customers = [
                Customer(tenant_id, profile.name, key)
                for profile in PROFILES
                for tenant_id, key in [create_tenant(connection, profile.name, plan=profile.plan)]
            ]

    def _start_help_desk(self, world_url: str) -> None:
        step("starting the help desk, with two workers, and its dispatcher")
        own = {
            "HELPDESK_DSN": make_conninfo(self._dsn, user=LOGIN),
            "HELPDESK_FILES": str(self._scratch / "files"),
            "HELPDESK_STRIPE_API_KEY": "sk_test_of_the_demonstration",
            "HELPDESK_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "HELPDESK_STRIPE_API": world_url,
            "HELPDESK_ALLOW_PRIVATE_ADDRESSES": "1",
            "HELPDESK_MESSAGE_SAMPLE_RATE": "0.5",
            "HELPDESK_FETCH_TIMEOUT": "1.5",
            "HELPDESK_RETRY_SECONDS": "0.5",
            "TENANTRY_JOURNAL": str(self._journal),
            "TENANTRY_ENVIRONMENT": "demo",
        }
        # A request must not begin with the tenant or the trace of the one before it.
        options = ("--workers", "2", "--port", "0", "--reset-contextvars")
        self._app = self._start("the help desk", "uvicorn", "helpdesk.app:app", *options, **own)
        self._dispatcher = self._start("the dispatcher", "helpdesk.dispatcher", **own)

    def _start(self, name: str, module: str, *arguments: str, **own: str) -> Service:
        if module == "uvicorn":
            arguments = (*arguments, "--host", "127.0.0.1", "--no-access-log")
        service = processes.start(
            self._stack,
            name,
            [sys.executable, "-m", module, *arguments],
            variables=own,
            folder=EXAMPLES,
            log=self._scratch / f"{name.rpartition(' ')[2]}.log",
        )
        self._services.append(service)
        return service

    # The load.

    async def _load(self, url: str, world_url: str, documents: list[Any]) -> tuple[Kill, Desk]:
        desk = Desk(url)
        async with desk.client, httpx.AsyncClient(base_url=world_url, timeout=60) as world:
            plan = Plan(
                self._seed,
                self._customers,
                documents,
                conversations=CONVERSATIONS,
                world=world,
                stripe=Stripe(desk.client, desk.ledger, WEBHOOK_SECRET),
            )
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                kill = await self._work(desk, plan)
                watch.cancel()
        return kill, desk

    async def _watch(self) -> None:
        while True:
            for service in self._services:
                service.check()
            await asyncio.sleep(0.2)

    async def _work(self, desk: Desk, plan: Plan) -> Kill:
        await desk.wait_for_workers()
        uploads = plan.prepare()
        step(f"{len(self._customers)} tenants upload their documents: {len(uploads)} requests")
        await desk.run(uploads)
        await desk.run(plan.begin())
        jobs = plan.go_on()
        step(f"{len(jobs)} conversations, ingestions, imports and checkouts, all mixed")
        half = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.run(jobs, at=round(KILL_AFTER * len(jobs)), event=half))
            await half.wait()
            kill = await desk.kill_a_worker(self._customers[0])
            step(f"kill -9 {kill.victim}, a worker, in the middle of it; the load goes on")
            kill.after = await desk.find_workers(2, without=kill.victim)
            new = ", ".join(str(pid) for pid in sorted(kill.after - kill.before))
            step(f"uvicorn has put worker {new} in its place")
        step(
            f"{len(desk.ledger.entries) + len(desk.ledger.webhooks)} requests sent, of which"
            f" {desk.ledger.unanswered} died with the worker, and were not repeated"
        )
        return kill

    # The end.

    def _settle(self) -> None:
        """Let what is due be delivered; then let everything end in good order, or be shipped."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:

            def is_quiet() -> bool:
                rows = connection.execute(
                    "SELECT FROM helpdesk.outbox WHERE state = 'waiting' AND attempts = 0 LIMIT 1"
                ).fetchall()
                return not rows

            with suppress(DemoFailed):
                wait_until(is_quiet, "the outbox does not get empty", patience=QUIET)
        if self._keep:
            deadline = time.monotonic() + QUIET
            while time.monotonic() < deadline:
                if not books.read_stats(self._dsn, self._journal)["total"]["pending"]:
                    break
            return
        step("SIGTERM to the dispatcher and to the help desk: each sends what it still has")
        self._dispatcher.stop()
        self._app.stop()

    def _report(self, answers: proof.Answers | None) -> bool:
        journals = books.read_books(books.read_stats(self._dsn, self._journal), self._role)
        with psycopg.connect(self._dsn) as connection:
            report.print_load(self._desk.ledger)
            report.print_events(connection, self._customers)
            report.print_questions(connection, self._customers)
            report.print_traces(connection, self._customers)
            ((abandoned,),) = connection.execute(
                "SELECT count(*) FROM tenantry.events WHERE error_code = 'abandoned'"
            ).fetchall()
            books.print_books(journals, self._kill.victim, abandoned)
            checks = proof.check_all(connection, self._desk.ledger, answers)
            if not self._keep:
                stored = sum(each.stored for each in journals)
                handed = sum(each.handed for each in journals)
                checks.append(
                    proof.check_books(connection, self._desk.ledger, stored=stored, handed=handed)
                )
        return proof.print_checks(checks, balanced=all(each.balances for each in journals))

    def _role(self, pid: int, service: str) -> str:
        if pid == self._kill.victim:
            return "worker, killed"
        if pid in self._kill.after - self._kill.before:
            return "worker, new"
        return "dispatcher" if service == "helpdesk-dispatcher" else "worker"

    def _stay(self, url: str, world_url: str) -> None:
        heading("Everything stays until Ctrl-C. To look further:")
        key = self._customers[0].key
        tenantry = books.find_command()
        variables = f"TENANTRY_DSN='{self._dsn}' TENANTRY_JOURNAL={self._journal}"
        for line in (
            f"the help desk   {url}",
            f"the world       {world_url}",
            f"the database    {self._dsn}",
            *(f"an API key      {each.key}   {each.name}" for each in self._customers),
            "",
            f"curl -H 'Authorization: Bearer {key}' '{url}/v1/activity?limit=5'",
            f"psql '{self._dsn}' -f {report.QUESTIONS / 'escalation_rate.sql'}",
            f"{variables} {tenantry} tail --follow",
            f"{variables} {tenantry} stats",
            f"curl {url}/health   # gives a worker: kill -9 it, and ask for the stats again",
        ):
            say(line, to_copy=True)
        with suppress(KeyboardInterrupt):
            while True:
                for service in self._services:
                    service.check()
                time.sleep(0.5)  # until Ctrl-C, or a service that ends by itself


def run(*, seed: int, keep: bool) -> bool:
    """Run the demonstration, and leave nothing behind, whatever ends it."""
    stack = ExitStack()
    with processes.terminable():
        try:
            return Demo(stack, seed=seed, keep=keep).run()
        finally:
            with held():
                stack.close()


def main() -> int:
    """Run the demonstration; 0 when everything that it claims holds."""
    parser = argparse.ArgumentParser(prog="python -m helpdesk.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of what is sent (1)")
    parser.add_argument("--keep", action="store_true", help="let everything run until Ctrl-C")
    options = parser.parse_args()
    try:
        return 0 if run(seed=options.seed, keep=options.keep) else 1
    except KeyboardInterrupt:
        return 130
    except (DemoFailed, ExceptionGroup) as error:
        failure: Exception = error
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        if not isinstance(failure, DemoFailed):
            raise
        say(f"\n{failure}", "bold red", to_copy=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
