"""The reference pages say what the code and the database say."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import annotated_types
import pytest
from pydantic.fields import FieldInfo
from typer.main import get_command

import tenantry
from tenantry import configuring, exceptions, pipeline
from tenantry.checking.findings import Code
from tenantry.cli.app import Exit, app
from tenantry.journal import DROP_REASONS
from tenantry.registry import load_taxonomy
from tenantry.settings import Settings
from tenantry.taxonomies import saas
from tenantry.taxonomy import RESERVED, EventType
from tenantry.tracking.difference import BREAKING, VERSIONABLE, ChangeKind
from tests.docs.pages import DOCS
from tests.fix_postgres import Database

SOURCE = Path(tenantry.__file__).parent
TABLES = (
    "events",
    "rejected_events",
    "journal_cursors",
    "event_tallies",
    "ledger",
    "tenant_roles",
    "adoptions",
    "migrations",
)
ROLES = (
    "tenantry_writer",
    "tenantry_reader",
    "tenantry_tenant",
    "tenantry_admin",
    "tenantry_maintainer",
)


def read(page: str) -> str:
    return (DOCS / "reference" / page).read_text()


def rows_under(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, its head left out."""
    section = read(page).partition(f"{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table, f"{page} has no table under {heading}"
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> str:
    return cell.strip("`")


# api.md


def documented(page: str) -> set[str]:
    return set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", read(page), re.MULTILINE))


@pytest.mark.parametrize("name", tenantry.__all__)
def test_public_name_is_on_the_api_page(name: str):
    assert f"tenantry.{name}" in documented("api.md")


@pytest.mark.parametrize(
    "module",
    [
        "exceptions",
        "exporters",
        "exporters.console",
        "exporters.memory",
        "exporters.postgres",
        "taxonomies.saas",
        "testing",
    ],
)
def test_public_submodule_is_on_the_api_page(module: str):
    assert f"tenantry.{module}" in documented("api.md")


def test_tree_of_exceptions_shows_every_exception_below_its_parent():
    tree: list[str] = re.findall(r"^[ │├└─]*(\w+)(?: \(\w+\))?$", exceptions.__doc__, re.MULTILINE)
    declared = [
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, tenantry.TenantryError)
    ]
    assert tree == declared


# configuration.md

OPTIONS = {
    ("schema" if name == "db_schema" else name): field
    for name, field in Settings.model_fields.items()
}


def words_of_type(field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) in {UnionType, typing.Union}:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal:
        *first, last = (f"`{value}`" for value in typing.get_args(annotation))
        return f"{', '.join(first)} or {last}"
    unit = {int: "bytes", float: "seconds"}.get(annotation, "")
    words = {
        str: "text",
        bool: "true or false",
        Path: "directory",
        tuple[str, ...]: "texts, joined by commas",
        dict[str, str]: "`id:secret` pairs, joined by commas",
        dict[str, str | bytes]: "`id:secret` pairs, joined by commas",
    }
    return ", ".join([words.get(annotation, unit), *limits(field)])


def limits(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        match limit:
            case annotated_types.Ge():
                yield f"at least {limit.ge}"
            case annotated_types.Gt():
                yield f"more than {limit.gt}"
            case annotated_types.Le():
                yield f"at most {limit.le}"


def words_of_default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the user's state directory"
    if field.default is None or field.default == ():
        return "none"
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def test_configuration_page_lists_every_option_in_order():
    assert [quoted(row[0]) for row in rows_under("configuration.md", "# Configuration")] == list(
        OPTIONS
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_configuration_page_has_variable_type_and_default_of(option: str):
    rows = {quoted(row[0]): row for row in rows_under("configuration.md", "# Configuration")}
    _, variable, kind, default, meaning = rows[option]
    assert quoted(variable) == f"TENANTRY_{option.upper()}"
    assert kind == words_of_type(OPTIONS[option])
    assert quoted(default) == words_of_default(OPTIONS[option])
    assert meaning


def test_configuration_page_lists_every_argument_of_configure():
    arguments = inspect.signature(configuring.configure).parameters.keys()
    from_code = rows_under("configuration.md", "Six options come from code alone:\n")
    assert arguments == OPTIONS.keys() | {quoted(row[0]) for row in from_code}


def test_pipeline_takes_every_argument_of_configure():
    arguments = inspect.signature(pipeline.Pipeline).parameters.keys() - {"clock", "new_id"}
    assert arguments == inspect.signature(configuring.configure).parameters.keys()


@pytest.mark.parametrize("option", inspect.signature(configuring.configure).parameters)
def test_docstring_of_configure_names(option: str):
    assert f"``{option}``" in (configuring.configure.__doc__ or "")


# events.md


def words_of_value(annotation: object) -> str:
    choices = [each for each in typing.get_args(annotation) if each is not type(None)]
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f'`"{choice}"`' for choice in choices)
    if choices:
        return words_of_value(choices[0])
    return {str: "text", int: "integer", float: "number"}[typing.cast("type", annotation)]


def words_of_keys(event: EventType) -> str:
    assert event.model is not None
    return "; ".join(
        f"`{event.stored_keys[name]}` {words_of_value(field.annotation)}"
        + ("" if field.is_required() else " (optional)")
        for name, field in event.model.model_fields.items()
    )


def test_events_page_lists_the_starter_taxonomy_with_its_keys():
    declared = [
        [f"`{event.name}`", words_of_keys(event), event.model.__doc__]
        for event in load_taxonomy(saas)
    ]
    assert rows_under("events.md", "# Events") == declared


def test_events_page_names_every_reserved_name():
    sentence = read("events.md").partition("are options of")[2].partition("\n- ")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) >= RESERVED


# database.md

SHORT = {"timestamp with time zone": "timestamptz"}


@pytest.mark.parametrize("table", TABLES)
def test_database_page_has_the_columns_of(table: str, database18: Database):
    catalogue = database18.execute(
        """
        SELECT attname, format_type(atttypid, NULL), attnotnull,
               coalesce(pg_get_expr(adbin, adrelid), ''), col_description(attrelid, attnum)
          FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
         ORDER BY attnum
        """,
        [f"tenantry.{table}"],
    )
    page = rows_under("database.md", f"\n## {table}")
    assert [[quoted(row[0]), row[1], row[2], quoted(row[3])] for row in page] == [
        [name, SHORT.get(type_, type_), "no" if not_null else "yes", default]
        for name, type_, not_null, default, _ in catalogue
    ]
    for row, (*_, comment) in zip(page, catalogue, strict=True):
        assert comment.startswith(row[4].removesuffix(".")), row[0]


@pytest.mark.parametrize("table", TABLES)
def test_database_page_has_the_privileges_on(table: str, database18: Database):
    granted = dict(
        database18.execute(
            """
            SELECT pg_get_userbyid(grantee)::text,
                   string_agg(privilege_type, ', ' ORDER BY privilege_type)
              FROM pg_class, aclexplode(relacl)
             WHERE pg_class.oid = %s::regclass AND grantee <> relowner
             GROUP BY 1
            """,
            [f"tenantry.{table}"],
        )
    )
    rows = rows_under("database.md", "Privileges, table by table:\n")
    assert {quoted(row[0]): row[1:] for row in rows}[table] == [
        granted.get(role, "") for role in ROLES
    ]


# errors.md


def reasons_in_code() -> set[str]:
    """Collect what is given as ``reason`` to an ``InvalidEvent``, a reject or a row of one."""
    found = {"invalid"}  # the default of InvalidEvent
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason":
                found |= constants(node.value)
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found |= {c for k, v in pairs if constants(k) == {"reason"} for c in constants(v)}
            elif isinstance(node, ast.FunctionDef) and node.name == "reason_of":
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                found |= {c for value in returned for c in constants(value)}
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "REASON":
                found |= constants(node.value)
    return found


def constants(node: ast.expr | None) -> set[str]:
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return set()


def test_errors_page_lists_every_reason_of_rejected_events():
    page = {quoted(row[0]) for row in rows_under("errors.md", "## Reasons of `rejected_events`")}
    assert page == reasons_in_code()


def test_errors_page_lists_every_drop_reason():
    page = {quoted(row[0]) for row in rows_under("errors.md", "## Drop reasons")}
    assert page == set(DROP_REASONS.values())


# check.md


def test_check_page_lists_every_code_with_its_levels():
    rows = {quoted(row[0]): row[1:] for row in rows_under("check.md", "## Findings")}
    assert list(rows) == list(Code)
    assert all(level in {"error", "warning", "error or warning"} for level, _ in rows.values())


def test_check_page_lists_every_change_with_its_verdict():
    verdicts = {
        kind: "compatible"
        if kind not in BREAKING
        else "breaking, unless the version was raised"
        if kind in VERSIONABLE
        else "breaking"
        for kind in ChangeKind
    }
    rows = {quoted(row[0]): row[1] for row in rows_under("check.md", "## Changes of a taxonomy")}
    assert rows == verdicts


# cli.md


def commands() -> Iterator[tuple[str, Any]]:
    """Walk the command line: each command with its name, as it is typed."""
    pending = [("tenantry", get_command(app))]
    while pending:
        name, command = pending.pop()
        yield name, command
        inner = getattr(command, "commands", {})
        pending += [(f"{name} {each}", inner[each]) for each in inner]


COMMANDS = dict(commands())
GROUPS = {"tenantry rejected", "tenantry taxonomy"}  # they have no option, and so no table


def words_of_option(option: Any) -> list[str]:
    names = ", ".join(f"`{name}`" for name in option.opts)
    default = "" if option.default in {None, False} else f"`{option.default}`"
    if option.opts == ["--journal"]:
        default = "the user's state directory"
    return [names, f"`{option.envvar}`" if option.envvar else "", default]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in GROUPS])
def test_cli_page_has_every_option_of(name: str):
    options = [each for each in COMMANDS[name].params if each.param_type_name == "option"]
    assert [row[:3] for row in rows_under("cli.md", f"\n## {name}")] == [
        words_of_option(option) for option in options
    ]


def test_cli_page_has_every_command_and_no_other():
    headings = re.findall(r"^## (tenantry.*)$", read("cli.md"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_cli_page_has_every_exit_code():
    assert [int(row[0]) for row in rows_under("cli.md", "## Exit codes")] == list(Exit)
