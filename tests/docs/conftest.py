"""A place for the pages of the documentation to run in: directories and a server of their own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

from tenantry import context, pipeline
from tenantry.database.embedded import EmbeddedServer
from tests.docs.pages import Page
from tests.fix_postgres import Database, Server


@pytest.fixture
def place(postgres18: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to an empty directory, which also stands for the temporary one and for the user's."""
    directory = Path(tempfile.mkdtemp(prefix="tenantry-docs-"))
    directory.chmod(0o755)  # as root, the embedded server has a user of its own
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    for name in list(os.environ):
        if name.startswith(("TENANTRY_", "PG")):
            monkeypatch.delenv(name)
    for name in ("TMPDIR", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(directory))
    programs = [str(Path(sys.executable).parent), str(postgres18.binaries)]
    monkeypatch.setenv("PATH", os.pathsep.join([*programs, os.environ["PATH"]]))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def tidied(database18: Database) -> Iterator[None]:
    """Drop the logins that pages make, and the rule that one makes, whatever became of the page."""
    yield
    with database18.server.connect() as connection:
        query = r"SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname LIKE 'shop\_%'"
        for (statement,) in connection.execute(query).fetchall():
            connection.execute(statement)
    database18.execute("ALTER TABLE tenantry.events DROP CONSTRAINT IF EXISTS amount_is_positive")


@pytest.fixture
def run_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Page], None]]:
    """Run a page as a program of its own would run: nothing is configured before or after."""
    monkeypatch.setattr(pipeline, "configured", None)
    monkeypatch.setattr(pipeline, "_configured_with", {})
    monkeypatch.setattr(context, "_default_rule", context.TenantRule())
    before = dict(os.environ)
    modules = set(sys.modules)
    servers: list[EmbeddedServer] = []

    def run(page: Page) -> None:
        try:
            copy_context().run(page.run)
        finally:
            if pipeline.configured is not None:
                pipeline.configured.shutdown()
            servers.extend(v for v in page.namespace.values() if isinstance(v, EmbeddedServer))

    yield run
    for server in servers:
        server.stop()
    for name in set(sys.modules) - modules:
        if str(place) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(before)
