"""List every message that the package raises, warns of or logs, as docs/reference/messages.md.

Read from the sources, so that none is forgotten: `python scripts/error_messages.py` writes the
page, and tests/test_messages.py holds it to them. A value in a message is shown as `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ROOT / "src" / "tenantry"
PAGE: Final = ROOT / "docs" / "reference" / "messages.md"

HOLE: Final = "\0"
"""Stands for a value."""

_LOGGED: Final = frozenset({"info", "warning", "error", "exception"})

_OURS: Final = frozenset({"log", "warn"})
"""Functions of our own that log: the level, or what the warning is about, comes first."""

_WRITTEN_FOR_OTHERS: Final = frozenset({"NotImplementedError", "Exit", "KeyError", "StopIteration"})
"""Exceptions whose text is no message: an exit code, a key, or one for authors of this package."""

_HEAD: Final = """\
# Messages

Every message that Tenantry raises, warns of or logs, by the module that it comes from; `…` stands
for a value. What to do about the codes in rows is in [errors and reasons](errors.md). This page is
written by `scripts/error_messages.py`.
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, where it is, and what carries it: the type of an exception, or a log level."""

    module: str
    line: int
    carrier: str
    text: str

    @property
    def fragments(self) -> list[str]:
        """What is the same each time."""
        return [part for part in self.text.split(HOLE) if part.strip()]

    @property
    def shown(self) -> str:
        """The message with a sign for each value."""
        return re.sub(rf"{HOLE}+", "…", self.text)


def collect() -> list[Message]:
    """Read every message, in the order of modules and lines."""
    found: list[Message] = []
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = path.relative_to(SOURCES).with_suffix("").as_posix().replace("/", ".")
        texts = _assigned_texts(tree)
        for node in ast.walk(tree):
            for carrier, value in _carried(node):
                text = _template(value, texts)
                if re.search(r"[a-z]{3} ", text):
                    found.append(Message(module, value.lineno, carrier, text))
    return sorted(found, key=lambda each: (each.module, each.line))


def _carried(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Find what a node makes a message of."""
    if not isinstance(node, ast.Call):
        return
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if isinstance(function, ast.Attribute) and name in _LOGGED and _is_logger(function.value):
        yield "error" if name == "exception" else name, node.args[0]
    elif name in _OURS and len(node.args) > 1:
        level = node.args[0]
        shown = (
            level.attr.lower() if isinstance(level, ast.Attribute) and name == "log" else "warning"
        )
        yield shown, node.args[1]
    elif _is_exception(name):
        for argument in node.args[:2]:  # an OSError has its number first
            if (
                not isinstance(argument, (ast.Attribute, ast.Name, ast.Starred))
                or name != "OSError"
            ):
                yield name, argument
    elif name == "Retry":
        for place, argument in enumerate([*node.args, *(each.value for each in node.keywords)]):
            if place:
                yield "error", argument


def _is_logger(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in {"logger", "log", "_logger"}


def _is_exception(name: str) -> bool:
    if name in _WRITTEN_FOR_OTHERS:
        return False
    return name in _OWN or name.endswith(("Error", "Exit", "Exception")) or name == "Failure"


_OWN: Final = frozenset(
    node.name
    for node in ast.walk(ast.parse((SOURCES / "exceptions.py").read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
)


def _assigned_texts(tree: ast.AST) -> dict[str, ast.expr]:
    """Find texts that are put together before they are raised, by the name of their variable."""
    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, (ast.JoinedStr, ast.BinOp))
    }


def _template(value: ast.expr, texts: dict[str, ast.expr]) -> str:
    """Write an expression as text with holes."""
    if isinstance(value, ast.Constant):
        text = value.value if isinstance(value.value, str) else HOLE
        return re.sub(r"%[-.\d]*[sdr]", HOLE, text)
    if isinstance(value, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else HOLE
            for part in value.values
        )
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _template(value.left, texts) + _template(value.right, texts)
    if isinstance(value, ast.IfExp):
        return HOLE
    if isinstance(value, ast.Name) and value.id in texts:
        return _template(texts[value.id], {})
    return HOLE


def make_page() -> str:
    """Write the page."""
    lines = [_HEAD]
    module = ""
    for message in collect():
        if message.module != module:
            module = message.module
            lines.append(f"\n## `tenantry.{module}`\n")
        text = " ".join(message.shown.split()).replace("`", "'")
        lines.append(f"- {message.carrier}: `{text}`")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(f"{len(collect())} messages: {PAGE}")
