"""Places in the source that emit: blocks, decorations and facts, as the syntax shows them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Literal

import tenantry
from tenantry.checking.findings import Place
from tenantry.checking.importing import shown_path
from tenantry.checking.names import UNKNOWN, Function, Names, own_nodes
from tenantry.taxonomy import RESERVED, Event

_EMITS_OPTIONS: Final = RESERVED - {"correlation", "occurred_at", "idempotency_key"}
_FACT_OPTIONS: Final = frozenset(
    {"tenant", "actor", "conn", "occurred_at", "idempotency_key", "fields"}
)

Use = Literal["block", "decorator", "other"]


@dataclass(slots=True)
class Given:
    """The data that a call is given by hand."""

    keys: set[str] = field(default_factory=set[str])
    reserved: set[str] = field(default_factory=set[str])
    """Keywords that are refused, since they are the names of options elsewhere."""
    is_open: bool = False
    """Whether there are keys that the syntax does not show."""


@dataclass(slots=True)
class Later:
    """What ``operation.set`` adds."""

    keys: set[str] = field(default_factory=set[str])
    is_open: bool = False
    """Whether the operation, or data of unknown keys, goes somewhere else."""


@dataclass(slots=True)
class EmitsSite:
    """One ``emits(…)``."""

    place: Place
    use: Use
    operation: str | None
    given: Given
    later: Later
    options: dict[str, ast.expr]
    function: Function | None = None
    target: Any = None
    """The function, where the source names it: ``emits("ingest")(function)``."""
    returned: Any = UNKNOWN
    """The type that the function is annotated to return."""
    is_generator: bool = False


@dataclass(slots=True)
class FactSite:
    """One ``log_event(…)`` or ``alog_event(…)``."""

    place: Place
    call: str
    name: str | None
    model: type[Event] | None
    given: Given
    has_key: bool
    has_time: bool


@dataclass(slots=True)
class Source:
    """What one module's source shows."""

    emits: list[EmitsSite] = field(default_factory=list[EmitsSite])
    facts: list[FactSite] = field(default_factory=list[FactSite])
    used: set[type[Event]] = field(default_factory=set[type[Event]])
    """Classes of events that functions name: they may emit them in ways that are not seen."""
    configured: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    later: dict[tuple[str, int], Later] = field(default_factory=dict[tuple[str, int], Later])
    """By file and first line of a function: what its body sets in the current operation."""


def read_source(module: ModuleType) -> Source:
    """Read a module's source; one without any shows nothing."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return Source()
    reader = _Reader(module)
    reader.visit(tree)
    return reader.source


def first_line(function: Function) -> int:
    """Give the line where its code object says that it begins: its first decorator's."""
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])


class _Reader(ast.NodeVisitor):
    def __init__(self, module: ModuleType) -> None:
        self.source = Source()
        self._names = Names(module)
        self._file: str = inspect.getsourcefile(module) or module.__name__
        self._shown = shown_path(self._file)
        self._seen: set[int] = set()

    # Scopes.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: Function) -> None:
        decorations = [
            self._add(decorator, "decorator", Later(), function=node)
            for decorator in node.decorator_list
            if self._is_emits(decorator)
        ]
        for each in (*node.decorator_list, node.args, *([node.returns] if node.returns else [])):
            self.visit(each)
        self._names.enter(node)
        later = self._later(node.body, None)
        self.source.later[self._file, first_line(node)] = later
        for site in decorations:
            site.later = later
            site.returned = self._names.evaluate(node.returns)
            site.is_generator = any(
                isinstance(each, ast.Yield | ast.YieldFrom) for each in own_nodes(node)
            )
        for statement in node.body:
            self.visit(statement)
        self._names.leave()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._names.enter(node)
        self.visit(node.body)
        self._names.leave()

    # Calls.

    def visit_With(self, node: ast.With) -> None:
        self._visit_block(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._visit_block(node)

    def _visit_block(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            if self._is_emits(item.context_expr):
                self._add(item.context_expr, "block", self._later(node.body, item.optional_vars))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = self._resolve_call(node)
        if called is tenantry.emits and id(node) not in self._seen:
            self._add(node, "other", Later(is_open=True))
        elif called is tenantry.log_event or called is tenantry.alog_event:
            self._add_fact(node, called.__name__)
        elif called is tenantry.configure or called is tenantry.Pipeline:
            self._add_configuration(node)
        elif isinstance(node.func, ast.Call) and self._is_emits(node.func) and node.args:
            target = self._names.resolve(node.args[0])
            if callable(target):
                self._add(node.func, "decorator", Later(is_open=True), target=target)
        self.generic_visit(node)

    def _is_emits(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and self._resolve_call(node) is tenantry.emits

    def _resolve_call(self, node: ast.Call) -> Any:
        """Give what is called; an import may have seen ``configure`` in disguise."""
        called = self._names.resolve(node.func)
        return inspect.unwrap(called) if inspect.isroutine(called) else called

    def visit_Name(self, node: ast.Name) -> None:
        self._note_class(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note_class(node)
        self.generic_visit(node)

    def _note_class(self, node: ast.expr) -> None:
        found = self._names.resolve(node) if self._names.is_within_function else UNKNOWN
        if isinstance(found, type) and issubclass(found, Event):
            self.source.used.add(found)

    def _add(
        self,
        node: ast.expr,
        use: Use,
        later: Later,
        *,
        function: Function | None = None,
        target: Any = None,
    ) -> EmitsSite:
        if not isinstance(node, ast.Call):
            raise TypeError(node)
        self._seen.add(id(node))
        site = EmitsSite(
            place=Place(self._shown, node.lineno),
            use=use,
            operation=self._text(node.args[0]) if node.args else None,
            given=self._given(node, _EMITS_OPTIONS),
            later=later,
            options={each.arg: each.value for each in node.keywords if each.arg is not None},
            function=function,
            target=target,
        )
        self.source.emits.append(site)
        return site

    def _add_fact(self, node: ast.Call, call: str) -> None:
        given = self._given(node, _FACT_OPTIONS)
        name = model = None
        if node.args:
            name = self._text(node.args[0])
            made = self._names.assigned(node.args[0])
            if isinstance(made, ast.Call):
                kind = self._names.resolve(made.func)
                if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event:
                    name, model = kind.event_name, kind
                    own = self._given(made, frozenset())
                    given.keys |= own.keys
                    given.is_open |= own.is_open
        options = {each.arg for each in node.keywords if not _is_none(each.value)}
        self.source.facts.append(
            FactSite(
                place=Place(self._shown, node.lineno),
                call=call,
                name=name,
                model=model,
                given=given,
                has_key="idempotency_key" in options,
                has_time="occurred_at" in options or None in options,
            )
        )

    def _given(self, node: ast.Call, options: frozenset[str]) -> Given:
        given = Given()
        for keyword in node.keywords:
            if keyword.arg is None:
                given.is_open = True
            elif keyword.arg == "fields" and options:
                self._add_fields(given, keyword.value)
            elif keyword.arg in options:
                continue
            elif options and keyword.arg in RESERVED:
                given.reserved.add(keyword.arg)
            else:
                given.keys.add(keyword.arg)
        return given

    def _add_fields(self, given: Given, value: ast.expr) -> None:
        if _is_none(value):
            return
        shown = self._names.assigned(value)
        if not isinstance(shown, ast.Dict):
            given.is_open = True
            return
        for key in shown.keys:
            text = None if key is None else self._text(key)
            if text is None:
                given.is_open = True
            else:
                given.keys.add(text)

    def _add_configuration(self, node: ast.Call) -> None:
        options: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg in {"taxonomy", "open_taxonomy"}:
                options[keyword.arg] = self._value(keyword.value)
        if options.get("taxonomy", UNKNOWN) is not UNKNOWN:
            self.source.configured.append(
                {key: value for key, value in options.items() if value is not UNKNOWN}
            )

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            values = [self._names.resolve(each) for each in node.elts]
            return UNKNOWN if UNKNOWN in values else values
        return self._names.resolve(node)

    def _text(self, node: ast.expr) -> str | None:
        found = self._names.resolve(node)
        return found if isinstance(found, str) else None

    # What is set later.

    def _later(self, body: list[ast.stmt], variable: ast.expr | None) -> Later:
        """Read what a body sets in its operation, by its variable or by ``current_operation``."""
        later = Later(is_open=variable is not None and not isinstance(variable, ast.Name))
        own = {variable.id} if isinstance(variable, ast.Name) else set[str]()
        nodes = [node for statement in body for node in ast.walk(statement)]
        for node in nodes:
            if isinstance(node, ast.Assign | ast.NamedExpr) and self._is_current(node.value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {each.id for each in targets if isinstance(each, ast.Name)}
        asked = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr="set"), keywords=keywords) if (
                    isinstance(owner, ast.Name) and owner.id in own
                ) or self._is_current(owner):
                    later.keys |= {each.arg for each in keywords if each.arg is not None}
                    later.is_open |= any(each.arg is None for each in keywords)
                case ast.Name(id=name, ctx=ast.Load()) if name in own and id(node) not in asked:
                    later.is_open |= not _is_tested(node, nodes)
                case _:
                    pass
        return later

    def _is_current(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and self._resolve_call(node) is tenantry.current_operation


def _is_tested(name: ast.Name, nodes: list[ast.AST]) -> bool:
    """Say whether a name is only compared, or asked whether it is true."""
    return any(
        (isinstance(node, ast.Compare) and name in (node.left, *node.comparators))
        or (isinstance(node, ast.If | ast.IfExp | ast.While) and node.test is name)
        for node in nodes
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def literal_keys(node: ast.expr | None) -> Iterator[str] | None:
    """Give the keys of the dictionary that a lambda makes; None for anything else."""
    if not isinstance(node, ast.Lambda) or not isinstance(node.body, ast.Dict):
        return None
    keys = [each.value if isinstance(each, ast.Constant) else None for each in node.body.keys]
    return iter(map(str, keys)) if all(isinstance(each, str) for each in keys) else None
