"""The snippets for other migration tools run in those tools, and make what `migrate` makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.database.migrate import migrate, status
from tests.database.test_migrate import dump
from tests.docs.pages import DOCS
from tests.fix_postgres import Database

PAGE = (DOCS / "how-to" / "use-your-own-migration-tool.md").read_text()

ALEMBIC = """
from alembic import command, context
from alembic.config import Config

config = Config()
config.set_main_option("script_location", "alembic")
config.set_main_option("sqlalchemy.url", {url!r})
command.upgrade(config, "head")
command.current(config)
"""

ALEMBIC_ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine

with create_engine(context.config.get_main_option("sqlalchemy.url")).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

DJANGO = """
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.postgresql", **{parameters!r}}}}},
    INSTALLED_APPS=["shop"],
)
django.setup()
call_command("migrate")
call_command("showmigrations")
"""


def write_snippet(directory: Path, name: str) -> None:
    (code,) = re.findall(rf":caption: {name}\n\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    file = directory / name
    file.parent.mkdir(parents=True)
    file.write_text(code)


def run(directory: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_is_what_migrate_makes(database: Database) -> None:
    assert status(database.owner).version >= 7
    migrate(database.owner)  # what came after the page was written
    made = dump(database.server, database.name)
    database.execute("DROP SCHEMA tenantry CASCADE")
    migrate(database.owner)
    assert dump(database.server, database.name) == made


def test_alembic_revision_makes_the_schema(empty_database: Database, tmp_path: Path):
    pytest.importorskip("alembic")
    write_snippet(tmp_path, "alembic/versions/0001_tenantry.py")
    (tmp_path / "alembic" / "env.py").write_text(ALEMBIC_ENVIRONMENT)
    empty_database.execute("ALTER SCHEMA public OWNER TO host_owner")
    dsn = conninfo_to_dict(empty_database.owner)
    url = f"postgresql+psycopg://{dsn['user']}@/{dsn['dbname']}?host={quote(str(dsn['host']))}"
    assert "0001_tenantry (head)" in run(tmp_path, ALEMBIC.format(url=url))
    assert_is_what_migrate_makes(empty_database)


def test_django_migration_makes_the_schema(empty_database: Database, tmp_path: Path):
    write_snippet(tmp_path, "shop/migrations/0001_tenantry.py")
    (tmp_path / "shop" / "migrations" / "__init__.py").touch()
    (tmp_path / "shop" / "__init__.py").touch()
    empty_database.execute("ALTER SCHEMA public OWNER TO host_owner")
    dsn = conninfo_to_dict(empty_database.owner)
    parameters = {"NAME": dsn["dbname"], "USER": dsn["user"], "HOST": dsn["host"]}
    assert "[X] 0001_tenantry" in run(tmp_path, DJANGO.format(parameters=parameters))
    assert_is_what_migrate_makes(empty_database)
