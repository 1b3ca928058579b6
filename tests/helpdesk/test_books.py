"""The books: a help desk that is stopped, or loses a worker under load, loses no event."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.helpdesk.conftest import read_stats
from tests.helpdesk.desk import Customer, Desk, DeskDatabase, start_desk, wait_until


@pytest.fixture
def own_desk(desk_database: DeskDatabase, tmp_path: Path) -> Iterator[Desk]:
    """Give a desk that the test may do anything to; all messages are recorded."""
    desk = start_desk(desk_database, tmp_path, HELPDESK_MESSAGE_SAMPLE_RATE="1.0")
    yield desk
    desk.stop()


def find_workers(desk: Desk) -> set[int]:
    """Ask several times at once who answers."""
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda _: desk.request("GET", "/health"), range(8))
        return {answer.json()["pid"] for answer in answers}


def find_both_workers(desk: Desk) -> set[int]:
    return wait_until(lambda: found if len(found := find_workers(desk)) == 2 else set())


class Load:
    """Customers at work; what was acknowledged is written down."""

    def __init__(self, customers: list[Customer]) -> None:
        self.conversations: Counter[str] = Counter()
        """How many messages of each were acknowledged."""
        self.customers = customers
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(customer,)) for customer in customers
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def size(self) -> int:
        return self.conversations.total() + len(self.conversations)

    def _work(self, customer: Customer) -> None:
        while not self._stopping.is_set():
            try:
                answer = customer.post("/v1/conversations", {"session_id": "load"})
                if answer.status_code != 201:
                    continue
                conversation_id = answer.json()["id"]
                self.conversations[conversation_id] = 0
                if customer.say(conversation_id, "Hello").status_code == 200:
                    self.conversations[conversation_id] += 1
            except httpx.TransportError:
                continue  # not acknowledged


def assert_nothing_is_missing(desk: Desk, load: Load) -> None:
    ids = [customer.id for customer in load.customers]
    rows = desk.database.execute(
        "SELECT name, data ->> 'conversationId' AS conversation, count(*) AS n"
        " FROM tenantry.events WHERE tenant_id = ANY(%s) GROUP BY 1, 2",
        [ids],
    )
    stored = {(row["name"], row["conversation"]): row["n"] for row in rows}
    in_tables = desk.database.execute(
        "SELECT id FROM helpdesk.conversations WHERE tenant_id = ANY(%s)", [ids]
    )
    started = {name_of[1] for name_of in stored if name_of[0] == "conversation_started"}
    assert started == {str(row["id"]) for row in in_tables}  # the one never without the other
    assert started >= load.conversations.keys()
    missing = {
        conversation_id: number
        for conversation_id, number in load.conversations.items()
        if stored.get(("message_sent", conversation_id), 0) < number
    }
    assert missing == {}
    assert all(n == 1 for n in stored.values())


def books_of(desk: Desk) -> dict:
    """Add up the books of this desk's processes, which must be settled and balance."""
    books = read_stats(desk.database, desk.journal)
    pids = {int(line.split("[")[1].split("]")[0]) for line in started_lines(desk)}
    ours = [j for j in books["journals"] if int(j["process"].rpartition(":")[2]) in pids]
    assert ours
    for journal in ours:
        assert journal["balance"] is True, journal
        assert (journal["state"], journal["pending"], journal["dropped"]) == ("closed", 0, {})
    columns = ("emitted", "accepted", "handed", "sampled_out", "stored", "rejected")
    return {column: sum(journal[column] for journal in ours) for column in columns}


def started_lines(desk: Desk) -> list[str]:
    text = desk.programs[0].log.read_text()
    return [line for line in text.splitlines() if "Started server process [" in line]


def test_everything_emitted_is_stored_when_the_server_is_stopped_under_load(own_desk: Desk):
    find_both_workers(own_desk)
    customers = [Customer.join(own_desk, plan="business") for _ in range(4)]
    with Load(customers) as load:
        wait_until(lambda: load.size > 80)
        (server,) = own_desk.programs
        code = server.stop()  # while requests are being answered
    assert code == 0
    assert list(own_desk.journal.iterdir()) == []
    assert_nothing_is_missing(own_desk, load)
    events = own_desk.database.execute(
        "SELECT name FROM tenantry.events WHERE tenant_id = ANY(%s)", [[c.id for c in customers]]
    )
    counts = Counter(row["name"] for row in events)
    books = books_of(own_desk)
    # Escalations and conversations went into the desk's own transactions, messages did not.
    assert books["handed"] == counts["conversation_started"] + counts["escalation_triggered"]
    assert books["stored"] == books["accepted"] == counts["message_sent"]
    assert (books["sampled_out"], books["rejected"]) == (0, 0)


def replaced(desk: Desk, before: set[int]) -> set[int]:
    """Give the new workers that answer; a connection that the killed one had taken is reset."""
    try:
        return find_workers(desk) - before
    except httpx.TransportError:
        return set()


def test_worker_that_is_killed_under_load_is_replaced_and_loses_nothing(own_desk: Desk):
    before = find_both_workers(own_desk)
    victim = min(before)
    customers = [Customer.join(own_desk, plan="business") for _ in range(4)]
    with Load(customers) as load:
        wait_until(lambda: load.size > 60)
        os.kill(victim, signal.SIGKILL)
        size = load.size
        wait_until(lambda: load.size > size + 60)
    wait_until(lambda: replaced(own_desk, before), 40)
    (server,) = own_desk.programs
    assert server.stop() == 0
    # The replacement took over what the killed one had left, and sent it.
    assert list(own_desk.journal.iterdir()) == []
    assert_nothing_is_missing(own_desk, load)
