"""Fixtures of the help desk: one that runs, with its dispatcher and the outside world."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpdesk.database import prepare
from psycopg.conninfo import make_conninfo

from tests.fix_postgres import Server, _find_database
from tests.helpdesk.desk import (
    Customer,
    Desk,
    DeskDatabase,
    Program,
    Site,
    running_site,
    start_desk,
    start_server,
    url_of,
)

REFUSE_AT_COMMIT = """
CREATE FUNCTION helpdesk.refuse() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'refused at commit'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON helpdesk.conversations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.session_id = 'refused at commit')
    EXECUTE FUNCTION helpdesk.refuse();
"""
"""How a test makes a request fail as late as it can, when all statements have succeeded."""


@pytest.fixture(scope="session")
def desk_database(postgres18: Server) -> Iterator[DeskDatabase]:
    found = _find_database(postgres18, "test_helpdesk")
    # As its owner: the roles belong to the whole server, and to whoever made them first.
    prepare(found.owner, "helpdesk_app")
    database = DeskDatabase(found.superuser, make_conninfo(found.superuser, user="helpdesk_app"))
    database.execute(REFUSE_AT_COMMIT)
    yield database
    database.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Stripe, endpoints and a web site; give their URL."""
    directory = tmp_path_factory.mktemp("world")
    # Its slow endpoints would go on sleeping.
    options = ("--timeout-graceful-shutdown", "1")
    program = start_server("world", directory, {}, "helpdesk.demo.world:app", *options)
    try:
        yield url_of(program)
    finally:
        program.stop()


class House:
    """The desk that most tests share, begun anew where another test stopped the database."""

    def __init__(self, database: DeskDatabase, world: str, base: Path) -> None:
        self._database = database
        self._world = world
        self._base = base
        self._begun = 0
        self._desk: Desk | None = None
        self._started_at: object = None
        """When the server was started that the desk was started with."""

    def desk(self) -> Desk:
        (server,) = self._database.execute("SELECT pg_postmaster_start_time() AS started_at")
        if self._started_at != server["started_at"]:
            self.stop()
        if self._desk is None:
            self._begun += 1
            directory = self._base / str(self._begun)
            directory.mkdir()
            self._desk = start_desk(self._database, directory, world=self._world)
            variables = self._desk.variables
            dispatcher = Program("dispatcher", directory, variables, "helpdesk.dispatcher")
            self._desk.programs.append(dispatcher)
            dispatcher.wait_for_line("dispatcher ready")
            self._started_at = server["started_at"]
        return self._desk

    def stop(self) -> dict[str, int]:
        desk, self._desk = self._desk, None
        return {} if desk is None else desk.stop()


@pytest.fixture(scope="session")
def house(
    desk_database: DeskDatabase, world: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    base = tmp_path_factory.mktemp("house")
    house = House(desk_database, world, base)
    try:
        yield house
    finally:
        codes = house.stop()
    assert set(codes.values()) <= {0}, codes
    books = read_stats(desk_database, base)
    assert books["balance"] is True, books
    assert (books["total"]["pending"], books["total"]["rejected"]) == (0, 0)


def read_stats(database: DeskDatabase, journal: Path) -> dict:
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("tenantry"), "stats", "--json"),
            *("--dsn", database.superuser, "--journal", str(journal)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def desk(house: House) -> Desk:
    return house.desk()


@pytest.fixture
def customer(desk: Desk) -> Customer:
    return Customer.join(desk)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture
def closed_port() -> Iterator[str]:
    """Give a URL at which nobody listens."""
    with socket.socket() as reserved:  # bound, so that nobody else gets the port
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}/"
