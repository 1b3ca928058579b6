"""Uses of ``emits``: what lives, joined with what the source shows."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

from tenantry.callables import parameters_of, takes_any_keyword
from tenantry.checking.findings import Place
from tenantry.checking.importing import Application, shown_path
from tenantry.checking.names import UNKNOWN
from tenantry.checking.results import (
    Shape,
    mapping_of,
    nothing,
    return_annotation,
    shape_of,
    shape_of_result,
    unknown,
    whole,
)
from tenantry.checking.sites import EmitsSite, Later, Source, first_line, literal_keys
from tenantry.decorated import Decorated, decorations

BLOCK: Final = "the block"


class Use(NamedTuple):
    """One use of ``emits``, with all that can be known of it."""

    place: Place
    subject: str
    operation: str
    keys: frozenset[str]
    reserved: frozenset[str]
    is_open: bool
    parameters: frozenset[str]
    takes_any_keyword: bool
    later: Later
    result: Shape
    result_key: str | None
    may_fail_by_result: bool
    is_complete: bool
    """Whether missing keys can be told: not where an ``emits`` goes who knows where."""


def find_uses(
    application: Application, sources: dict[str, Source]
) -> tuple[list[Use], list[Place]]:
    """Give all uses, and the places of those whose operation only a run tells."""
    sites = [site for source in sources.values() for site in source.emits]
    later = {place: each for source in sources.values() for place, each in source.later.items()}
    by_line: dict[tuple[str, int], list[EmitsSite]] = {}
    for site in sites:
        if site.function is not None:
            by_line.setdefault((site.place.file, first_line(site.function)), []).append(site)
    uses: list[Use] = []
    seen: set[int] = set()
    for decorated in list(decorations):
        if not _is_of_modules(decorated.target, application):
            continue
        file, line = _begin_of(decorated.target)
        beside = by_line.get((shown_path(file), line), [])
        own = next((each for each in beside if _is_of(each, decorated)), None)
        if own is not None:
            seen.add(id(own))
        body = later.get((file, line), Later())
        uses.append(_use_of_decorated(decorated, own, Place(shown_path(file), line), body))
    unchecked: list[Place] = []
    for site in sites:
        if id(site) in seen or (site.use == "other" and _is_seen_alive(site, uses)):
            continue
        if site.operation is None:
            unchecked.append(site.place)
        else:
            uses.append(_use_of_site(site, site.operation))
    return uses, unchecked


def _is_of_modules(target: Any, application: Application) -> bool:
    name = getattr(target, "__module__", None)
    names = getattr(inspect.unwrap(target), "__globals__", None)
    return any(
        module.__name__ == name and (names is None or names is module.__dict__)
        for module in application.modules
    )


def _is_of(site: EmitsSite, decorated: Decorated) -> bool:
    return site.operation in {None, decorated.spec.name}


def _is_seen_alive(site: EmitsSite, uses: list[Use]) -> bool:
    """Say whether an ``emits`` that was kept in a name has decorated something since."""
    return any(
        use.operation == site.operation and use.place.file == site.place.file for use in uses
    )


def _begin_of(target: Any) -> tuple[str, int]:
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is None:
        code = getattr(getattr(cast("Any", type(target)), "__call__", None), "__code__", None)  # noqa: B004
    return ("", 0) if code is None else (code.co_filename, code.co_firstlineno)


def _use_of_decorated(
    decorated: Decorated, site: EmitsSite | None, place: Place, later: Later
) -> Use:
    spec, target = decorated.spec, decorated.target
    result_key = spec.result if isinstance(spec.result, str) else None
    shape = shape_of_result(target)
    if result_key is not None:
        shape = whole(result_key)
    elif spec.result is not None:
        keys = literal_keys(None if site is None else site.options.get("result"))
        shape = shape_of(return_annotation(spec.result)) if keys is None else mapping_of(set(keys))
    return Use(
        place=place if site is None else site.place,
        subject=f"{getattr(target, '__qualname__', type(target).__qualname__)}()",
        operation=spec.name,
        keys=frozenset({*spec.data, *spec.fields}),
        reserved=frozenset(),
        is_open=False,
        parameters=frozenset(parameters_of(target)),
        takes_any_keyword=takes_any_keyword(target),
        later=later,
        result=shape,
        result_key=result_key,
        may_fail_by_result=spec.failed_if is not None,
        is_complete=True,
    )


def _use_of_site(site: EmitsSite, operation: str) -> Use:
    """Make the use of a block, or of a decoration that has not happened yet."""
    subject: str = BLOCK
    shape: Shape = nothing
    parameters: frozenset[str] = frozenset()
    any_keyword = False
    if site.target is not None:
        subject = f"{getattr(site.target, '__qualname__', 'callable')}()"
        parameters, shape = frozenset(parameters_of(site.target)), shape_of_result(site.target)
        any_keyword = takes_any_keyword(site.target)
    elif site.function is not None:
        subject, shape = f"{site.function.name}()", _shape_of_source(site)
        arguments = site.function.args
        listed = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        parameters = frozenset(each.arg for each in listed)
        any_keyword = arguments.kwarg is not None
    elif site.use == "other":
        subject = "emits()"
    result = site.options.get("result")
    return Use(
        place=site.place,
        subject=subject,
        operation=operation,
        keys=frozenset(site.given.keys),
        reserved=frozenset(site.given.reserved),
        is_open=site.given.is_open,
        parameters=parameters,
        takes_any_keyword=any_keyword,
        later=site.later,
        result=shape if result is None else unknown,
        result_key=None,
        may_fail_by_result="failed_if" in site.options,
        is_complete=site.use != "other",
    )


def _shape_of_source(site: EmitsSite) -> Shape:
    """Read what a function that does not exist yet will offer."""
    if site.is_generator:
        return nothing if isinstance(site.function, ast.AsyncFunctionDef) else unknown
    return unknown if site.returned is UNKNOWN else shape_of(site.returned)


def keys_set_by_helpers(sources: Iterable[Source], uses: list[Use]) -> frozenset[str]:
    """Collect what functions set in an operation that is not their own, but their caller's."""
    own = {id(use.later) for use in uses}
    return frozenset(
        key
        for source in sources
        for later in source.later.values()
        if id(later) not in own
        for key in later.keys
    )
