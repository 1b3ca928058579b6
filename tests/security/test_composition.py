"""Statements are literals, or composed with `psycopg.sql`: no text is ever spliced into one.

The type checkers hold the first argument to `LiteralString` and `sql.Composed`; this holds what
they let pass: bytes, casts, and text built on the spot.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FILES = sorted([*(TOP / "src").rglob("*.py"), *(TOP / "examples").rglob("*.py")])
ALLOWED = {
    # Composed with `psycopg.sql` elsewhere, once, and kept as text.
    "src/tenantry/exporters/handover.py": {"statement.encode()"},
    "src/tenantry/database/erase.py": {
        "insert.encode()",
        "'tenant_id = %(tenant)s' + (_BY_ACTOR if by_actor else '')",  # two literals
    },
    # Files of the package, with names that are quoted: `test_injection.py` tries them.
    "src/tenantry/database/migrate.py": {
        "f'BEGIN; {LIMITED}'.encode()",
        "fill(migration.text, names).encode()",
        "f'{version_row(migration, self._schema)} RETURNING duration_ms'.encode()",
    },
    # A keyword that the server's own `aclexplode` gave.
    "src/tenantry/database/doctor/access.py": {"cast('Any', name)"},
    # Files of the demonstration, as they are.
    "examples/helpdesk/demo/proof.py": {"query.encode()"},
    "examples/helpdesk/demo/report.py": {"text.encode()"},
}
TAKERS = {"execute", "executemany", "copy", "stream", "mogrify", "SQL"}


def spliced(source: str) -> Iterator[str]:
    """Find the arguments of what takes a statement that are built of text."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and node.args and _name(node.func) in TAKERS):
            continue
        if any(_builds(part) for part in _text_parts(node.args[0])):
            yield ast.unparse(node.args[0])


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _text_parts(node: ast.AST) -> Iterator[ast.AST]:
    """Walk an expression, but not into the arguments of `sql.SQL(…).format(…)` and the like."""
    yield node
    composed = isinstance(node, ast.Call) and not _builds(node)
    for child in [node.func] if composed else ast.iter_child_nodes(node):
        yield from _text_parts(child)


def _builds(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return not all(isinstance(side, ast.Constant) for side in (node.left, node.right))
    if isinstance(node, ast.Call):
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        on_text = isinstance(owner, (ast.Constant, ast.JoinedStr))
        return _name(node.func) in {"encode", "cast", "str", "bytes"} or (
            on_text and _name(node.func) in {"format", "join", "replace", "format_map"}
        )
    return isinstance(node, ast.JoinedStr)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TOP)))
def test_no_statement_is_built_of_text(file: Path):
    allowed = ALLOWED.get(file.relative_to(TOP).as_posix(), set())
    assert set(spliced(file.read_text())) <= allowed


def test_security_rules_of_the_linter_hold_for_the_whole_package():
    rules = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert rules["select"] == ["ALL"]
    assert not [code for code in rules["ignore"] if re.fullmatch(r"S\d*", code)]
    assert not [glob for glob in rules["per-file-ignores"] if glob.startswith(("src", "*"))]


@pytest.mark.parametrize(
    "statement",
    [
        'c.execute(f"SELECT {x}")',
        'c.execute("SELECT %s" % x)',
        'c.execute("SELECT " + x)',
        'c.execute("SELECT {}".format(x))',
        'c.execute(", ".join(x))',
        'c.execute(("SELECT " + x).encode())',
        "c.execute(query.encode())",
        'c.execute(cast("LiteralString", x), [])',
        'c.executemany(f"INSERT INTO {x}", rows)',
        'sql.SQL(f"{x}").format(y)',
        'c.execute(sql.SQL("SELECT " + x).format(y))',
    ],
)
def test_what_is_built_of_text_is_found(statement: str):
    assert list(spliced(statement))


@pytest.mark.parametrize(
    "statement",
    [
        'c.execute("SELECT 1")',
        'c.execute("SELECT %s", [f"{x}"])',
        'c.execute(sql.SQL("SELECT {}").format(sql.Identifier(f"{x}_y")))',
        "c.execute(QUERY)",
        'c.execute("SELECT 1" " + 1")',
    ],
)
def test_what_is_composed_is_not(statement: str):
    assert list(spliced(statement)) == []
