"""Names in source code, resolved to what they stand for where that is certain without running."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from types import ModuleType
from typing import Any, Final, cast

UNKNOWN: Final = object()
"""What an expression gives that only running it would tell."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Names:
    """Resolves the names of one module, with what the functions around a place make local."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._locals: list[dict[str, list[ast.expr | ast.alias | None]]] = []

    def enter(self, function: ast.AST) -> None:
        """Go into a function: its own names hide the module's."""
        self._locals.append(_local_names(function))

    def leave(self) -> None:
        """Come out of it again."""
        self._locals.pop()

    @property
    def is_within_function(self) -> bool:
        """Whether the place is in a function's body."""
        return bool(self._locals)

    def resolve(self, node: ast.expr) -> Any:
        """Give the object that an expression stands for, or ``UNKNOWN``."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._resolve_name(name)
            case ast.Attribute(value=value, attr=attribute):
                owner = self.resolve(value)
                if owner is UNKNOWN:
                    return UNKNOWN
                found = inspect.getattr_static(owner, attribute, UNKNOWN)
                return found if isinstance(owner, ModuleType | type) else UNKNOWN
            case _:
                return UNKNOWN

    def evaluate(self, annotation: ast.expr | None) -> Any:
        """Give the type that an annotation means, or ``UNKNOWN``."""
        if annotation is None:
            return UNKNOWN
        text = annotation.value if isinstance(annotation, ast.Constant) else None
        try:
            source = text if isinstance(text, str) else ast.unparse(annotation)
            return eval(source, self._module.__dict__)  # noqa: S307  # as typing does
        except Exception:  # noqa: BLE001  # names that exist for type checkers, or locally, only
            return UNKNOWN

    def assigned(self, node: ast.expr) -> ast.expr:
        """Follow a local name to the only expression that is assigned to it."""
        if isinstance(node, ast.Name):
            for names in reversed(self._locals):
                if node.id in names:
                    only = names[node.id]
                    found = only[0] if len(only) == 1 else None
                    return found if isinstance(found, ast.expr) else node
        return node

    def _resolve_name(self, name: str) -> Any:
        for names in reversed(self._locals):
            if name in names:
                only = names[name]
                found = only[0] if len(only) == 1 else None
                if isinstance(found, ast.alias):
                    return self._imported(found)
                return found.value if isinstance(found, ast.Constant) else UNKNOWN
        found = self._module.__dict__.get(name, UNKNOWN)
        return getattr(builtins, name, UNKNOWN) if found is UNKNOWN else found

    def _imported(self, alias: ast.alias) -> Any:
        """Give what an import within a function gives; it is not imported for that."""
        module: str = getattr(alias, "tenantry_module", "")
        if not module:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            return sys.modules.get(name, UNKNOWN)
        owner = sys.modules.get(module)
        return UNKNOWN if owner is None else getattr(owner, alias.name, UNKNOWN)


def _local_names(  # noqa: C901, PLR0912  # one case a kind of binding
    function: ast.AST,
) -> dict[str, list[ast.expr | ast.alias | None]]:
    """List what a function assigns or imports; None stands for what is no plain assignment."""
    found: dict[str, list[ast.expr | ast.alias | None]] = {}
    arguments: Any = getattr(function, "args", None)
    if isinstance(arguments, ast.arguments):
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg):
                found.setdefault(argument.arg, []).append(None)
    plain: set[int] = set()
    shared: set[str] = set()
    for node in own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value):
                plain.add(id(target))
                found.setdefault(name, []).append(value)
            case ast.AnnAssign(target=ast.Name(id=name) as target, value=ast.expr() as value):
                plain.add(id(target))
                found.setdefault(name, []).append(value)
            case ast.Name(id=name, ctx=ast.Store()) if id(node) not in plain:
                found.setdefault(name, []).append(None)
            case ast.Import(names=names):
                for alias in names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found.setdefault(name, []).append(alias)
            case ast.ImportFrom(names=names, module=str(module), level=0):
                for alias in names:
                    alias.tenantry_module = module  # type: ignore[attr-defined]  # nodes carry notes
                    found.setdefault(alias.asname or alias.name, []).append(alias)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.setdefault(name, []).append(None)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                shared.update(names)
            case _:
                pass
    return {name: values for name, values in found.items() if name not in shared}


def own_nodes(function: ast.AST) -> list[ast.AST]:
    """List the nodes of a function's body, in their order, without those of functions within."""
    found: list[ast.AST] = []
    body: Any = getattr(function, "body", [])
    statements = cast("list[ast.AST]", body) if isinstance(body, list) else [body]
    pending: list[ast.AST] = [*reversed(statements)]
    while pending:
        node = pending.pop()
        found.append(node)
        if not isinstance(node, _SCOPES):
            pending.extend(reversed(list(ast.iter_child_nodes(node))))
    return found
