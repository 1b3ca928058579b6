"""The migration files: finds them, fills names in, and gives them out as text.

The files are the only source of DDL. Knows nothing of connections.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from psycopg import sql as compose

from tenantry.database.installed import Roles, check_identifier, check_tenant_type
from tenantry.exceptions import ConfigurationError

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_PLACEHOLDER: Final = re.compile(
    r"\{(schema|tenant_type|writer|reader|admin|maintainer|tenant)(_text)?\}"
)

SEARCH_PATH: Final = "SET LOCAL search_path = pg_catalog, pg_temp"
"""Who may create functions in a schema that the owner searches must not have them called here."""

LIMITED: Final = f"{SEARCH_PATH}; SET LOCAL lock_timeout = '3s'"
"""How a transaction begins that takes locks: to wait longer for one blocks everybody behind."""

# Another tool goes on in the same transaction, and finds its own tables by its search_path.
_KEEP_PATH: Final = (
    "SELECT pg_catalog.set_config('tenantry.search_path',"
    " pg_catalog.current_setting('search_path'), true)"
)
_RESTORE_PATH: Final = (
    "SELECT pg_catalog.set_config('search_path',"
    " pg_catalog.current_setting('tenantry.search_path'), true)"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sha256: str
    text: str
    """With its placeholders."""

    @property
    def title(self) -> str:
        """The file's name without its ending."""
        return f"{self.version:04}_{self.name}"


def find_migrations() -> tuple[Migration, ...]:
    """Return the migrations in order: those in the wheel, else the repository's."""
    found: list[Migration] = []
    for file in _migration_directory().iterdir():
        if match := _FILE_NAME.fullmatch(file.name):
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            found.append(Migration(int(match[1]), match[2], digest, content.decode()))
    return tuple(sorted(found, key=lambda migration: migration.version))


def select_migrations(from_version: int, to_version: int | None) -> tuple[Migration, ...]:
    """Return those above ``from_version`` up to ``to_version``; None is the latest.

    Raises:
        ConfigurationError: when there is no such version, or the second is the lower one.
    """
    migrations = find_migrations()
    latest = migrations[-1].version
    last = latest if to_version is None else to_version
    if not 0 <= from_version <= last <= latest:
        raise ConfigurationError(
            f"There are no migrations from version {from_version} to {last}: this package has 1 to "
            f"{latest}, and a migration is never undone. Give the version that the database has, "
            "and a later one."
        )
    return tuple(each for each in migrations if from_version < each.version <= last)


def sql(
    *,
    schema: str = "tenantry",
    tenant_type: str = "uuid",
    roles: Roles | None = None,
    from_version: int = 0,
    to_version: int | None = None,
) -> str:
    """Return migrations as one script for ``psql``, version rows included.

    Needs no database and is the same text each time; running it has the effect of `migrate` on a
    database that has ``from_version``. By default all of them, for one where nothing is installed.

    Raises:
        ConfigurationError: for versions that there are not.
    """
    names = fill_in(schema, tenant_type, roles or Roles())
    parts = [
        f"-- {each.title}\nBEGIN;\n{SEARCH_PATH};\n{fill(each.text, names)}\n"
        f"{version_row(each, schema)};\nCOMMIT;\n"
        for each in select_migrations(from_version, to_version)
    ]
    return "\n".join(["\\set ON_ERROR_STOP on\n", *parts])


def scripts(
    *,
    to_version: int,
    from_version: int = 0,
    schema: str = "tenantry",
    tenant_type: str = "uuid",
    roles: Roles | None = None,
) -> list[str]:
    """Return one text a migration, for a tool that runs them in a transaction of its own.

    Each leaves ``search_path`` as it was, and writes its version row, so that `migrate` and the
    exporter know of it. Run them as they are, without parameters: ``%`` and colons mean themselves.
    ``to_version`` has no default, so that a revision that was written once stays what it is.

    Raises:
        ConfigurationError: for versions that there are not.
    """
    names = fill_in(schema, tenant_type, roles or Roles())
    return [
        f"{_KEEP_PATH};\n{SEARCH_PATH};\n{fill(each.text, names)}\n"
        f"{version_row(each, schema)};\n{_RESTORE_PATH};\n"
        for each in select_migrations(from_version, to_version)
    ]


def fill_in(schema: str, tenant_type: str, roles: Roles) -> dict[str, str]:
    """Check the names, and give them by placeholder.

    Raises:
        ConfigurationError: for a name that no script should carry, or an unknown tenant type.
    """
    check_identifier(schema, "a schema")
    return {"schema": schema, "tenant_type": check_tenant_type(tenant_type), **asdict(roles)}


def fill(text: str, names: dict[str, str]) -> str:
    """Replace the placeholders of a file."""

    def replace(match: re.Match[str]) -> str:
        name = names[match[1]]
        if match[1] == "tenant_type":
            return name
        composable = compose.Literal(name) if match[2] else compose.Identifier(name)
        return composable.as_string(None)

    return _PLACEHOLDER.sub(replace, text)


def version_row(migration: Migration, schema: str) -> str:
    """Make the statement that notes a migration as applied."""
    return (
        compose.SQL(
            "INSERT INTO {}.migrations (version, name, sha256, duration_ms) VALUES ({}, {}, {}, "
            "extract(epoch FROM clock_timestamp() - now()) * 1000)"
        )
        .format(
            compose.Identifier(schema),
            compose.Literal(migration.version),
            compose.Literal(migration.name),
            compose.Literal(migration.sha256),
        )
        .as_string(None)
    )


def _migration_directory() -> Traversable:
    packed = resources.files("tenantry") / "migrations"
    if packed.is_dir():
        return packed
    return Path(__file__).parents[3] / "migrations"  # an editable installation copies nothing
