"""The check itself: what was found in an application, against its taxonomy."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from tenantry.checking.findings import Code, Finding, Level, Place, Report
from tenantry.checking.importing import Application, shown_path
from tenantry.checking.results import Certainty
from tenantry.checking.sites import FactSite, Source, read_source
from tenantry.checking.uses import BLOCK, Use, find_uses, keys_set_by_helpers
from tenantry.exceptions import ConfigurationError, TaxonomyError
from tenantry.registry import Taxonomy, load_taxonomy
from tenantry.taxonomy import COLUMN_KEYS, COMPLETED, FAILED, RESERVED, STARTED, EventType

_CODES = ("error_code", "errorCode")
"""What ``operation.set`` takes whether or not it is declared."""


def check(application: Application, taxonomy: Taxonomy | None = None) -> Report:
    """Check all modules; without a taxonomy, against the one that the application configures.

    Raises ``ConfigurationError`` where there is none, or where there are two.
    """
    sources = {module.__name__: read_source(module) for module in application.modules}
    known = _configured_taxonomy(application, sources.values()) if taxonomy is None else taxonomy
    uses, unchecked = find_uses(application, sources)
    facts = [fact for source in sources.values() for fact in source.facts]
    checker = _Checker(known, keys_set_by_helpers(sources.values(), uses))
    for use in uses:
        checker.check_operation(use)
    for fact in facts:
        if fact.name is None:
            unchecked.append(fact.place)
            continue
        if fact.given.is_open:
            unchecked.append(fact.place)
        checker.check_fact(fact, fact.name)
    used = {model for source in sources.values() for model in source.used}
    checker.check_emitted({model.event_name for model in used})
    return Report(
        modules=list(sources),
        events=len(known),
        functions=sum(1 for use in uses if use.subject != BLOCK),
        blocks=sum(1 for use in uses if use.subject == BLOCK),
        facts=len(facts),
        unchecked=sorted({*unchecked, *(use.place for use in uses if use.is_open)}),
        findings=sorted(
            dict.fromkeys(checker.findings), key=lambda each: (each.place, each.code, each.message)
        ),
    )


def _configured_taxonomy(application: Application, sources: Iterable[Source]) -> Taxonomy:
    options = [*application.configured, *(each for source in sources for each in source.configured)]
    found: list[Taxonomy] = []
    for each in options:
        if each.get("taxonomy") is None:
            continue
        try:
            taxonomy = load_taxonomy(each["taxonomy"], each.get("open_taxonomy") or ())
        except TaxonomyError as error:
            raise ConfigurationError(f"the taxonomy that configure() is given: {error}") from error
        if taxonomy not in found:
            found.append(taxonomy)
    if len(found) == 1:
        return found[0]
    raise ConfigurationError(
        (
            f"configure() is called with {len(found)} taxonomies in these modules"
            if found
            else "no configure(taxonomy=…) is found in these modules, or none that the source shows"
        )
        + ": say with --taxonomy which one to check against"
    )


class _Checker:
    """Collects findings, and which events are emitted."""

    def __init__(self, taxonomy: Taxonomy, set_anywhere: frozenset[str]) -> None:
        self.findings: list[Finding] = []
        self._taxonomy = taxonomy
        self._set_anywhere = set_anywhere
        self._emitted: set[str] = set()

    def _add(  # noqa: PLR0917  # the parts of a finding
        self, place: Place, level: Level, code: Code, name: str, key: str | None, message: str
    ) -> None:
        self.findings.append(Finding(place, level, code, message, name, key))

    # Operations.

    def check_operation(self, use: Use) -> None:
        """Check one use of ``emits``."""
        name, taxonomy = use.operation, self._taxonomy
        phases = [taxonomy.phase(name, ends) for ends in (STARTED, COMPLETED, FAILED)]
        events = [event for event in phases if event is not None]
        if not events:
            self._add(use.place, "error", Code.UNKNOWN_OPERATION, name, None, self._no_phase(name))
            return
        self._emitted |= {event.name for event in events}
        for key in sorted(use.reserved):
            self._refuse_reserved(use.place, name, key, "emits()")
        if any(event.is_open for event in events):
            return
        declared = {key: field for event in events for key, field in event.keys.items()}
        self._check_given(use, declared)
        if use.is_complete and not use.is_open:
            self._check_required(use, phases, declared)

    def _no_phase(self, name: str) -> str:
        operations = {
            event.name.rpartition("_")[0]
            for event in self._taxonomy
            if event.name.endswith(tuple(f"_{end}" for end in (*STARTED, *COMPLETED, *FAILED)))
        }
        near = get_close_matches(name, operations, n=1)
        return (
            f"the operation {name!r} has no event in the taxonomy: declare {name}_started, "
            f"{name}_completed or {name}_failed"
            + (f", or did you mean {near[0]!r}?" if near else "")
        )

    def _check_given(self, use: Use, declared: dict[str, str]) -> None:
        given = {*use.keys, *use.later.keys, *([use.result_key] if use.result_key else [])}
        for key in sorted(given - declared.keys()):
            if key in _CODES and key in use.later.keys:
                continue
            self._add(
                use.place,
                "error",
                Code.UNDECLARED_KEY,
                use.operation,
                key,
                f"{use.subject} gives the key {key!r}, which no event of the operation "
                f"{use.operation!r} declares: it is removed. Declare it, or leave it out",
            )

    def _check_required(
        self, use: Use, phases: list[EventType | None], declared: dict[str, str]
    ) -> None:
        lacking: dict[tuple[str, Certainty], list[str]] = {}
        for phase, event in zip(("started", "completed", "failed"), phases, strict=True):
            for field in _required(event):
                if event is None:
                    continue
                certainty = self._certainty(use, phase, event, field, declared)
                if certainty is not Certainty.YES:
                    lacking.setdefault((field, certainty), []).append(event.name)
        hidden = {declared[name] for name in use.parameters & RESERVED if name in declared}
        hidden -= {declared.get(key) for key in use.keys}
        for field in sorted(hidden):
            level: Level = "error" if (field, Certainty.NO) in lacking else "warning"
            self._add(
                use.place,
                level,
                Code.RESERVED_KEY,
                use.operation,
                field,
                f"the parameter {field!r} of {use.subject} is not taken for the key of that name, "
                f"since it is the name of an option: give fields={{{field!r}: {field!r}}}",
            )
        for (field, certainty), names in lacking.items():
            is_surely_lacking = (field, Certainty.NO) in lacking
            if field not in hidden and (certainty is Certainty.NO or not is_surely_lacking):
                self._add_lacking(use, field, certainty, names)

    def _add_lacking(self, use: Use, field: str, certainty: Certainty, names: list[str]) -> None:
        *first, last = names
        events = f"{', '.join(first)} and {last} require" if first else f"{last} requires"
        if certainty is Certainty.NO:
            self._add(
                use.place,
                "error",
                Code.MISSING_KEY,
                use.operation,
                field,
                f"{events} {field!r}, which {use.subject} gives in no way that is known "
                "by then: the event is refused. Give it as a parameter, a keyword or by fields=, "
                "or make it optional",
            )
            return
        self._add(
            use.place,
            "warning",
            Code.UNCERTAIN_KEY,
            use.operation,
            field,
            f"{events} {field!r}, which {use.subject} may not give: it depends on what "
            "runs, or on a result whose annotation does not say. Annotate the result, or give the "
            "key from the start",
        )

    def _certainty(
        self, use: Use, phase: str, event: EventType, field: str, declared: dict[str, str]
    ) -> Certainty:
        taken = use.parameters - RESERVED
        if field in {declared.get(key) for key in use.keys | taken}:
            return Certainty.YES
        if phase == "failed" and field == event.error_code_field:
            return Certainty.YES
        found = [Certainty(use.takes_any_keyword)]
        if phase != "started":
            is_set = field in {declared.get(key) for key in use.later.keys}
            # A failure may come before it is set.
            found.append(Certainty(is_set * (1 + (phase == "completed"))))
            is_set_elsewhere = field in {declared.get(key) for key in self._set_anywhere}
            found.append(Certainty(use.later.is_open or is_set_elsewhere))
        if phase == "completed":
            found.append(use.result(event, field))
        elif phase == "failed" and use.may_fail_by_result:
            found.append(min(Certainty.MAYBE, use.result(event, field)))
        return max(found)

    # Facts.

    def check_fact(self, fact: FactSite, name: str) -> None:
        """Check one ``log_event``."""
        for key in sorted(fact.given.reserved):
            self._refuse_reserved(fact.place, name, key, f"{fact.call}()")
        if fact.has_key and not fact.has_time:
            self._add(
                fact.place,
                "error",
                Code.OCCURRED_AT_MISSING,
                name,
                None,
                f"{fact.call}() has idempotency_key= without occurred_at=: the event is refused. "
                "Give the time at which it happened, the same at each replay",
            )
        event = self._taxonomy.find(name)
        if event is None or (fact.model is not None and event.model is not fact.model):
            self._add_unknown_event(fact, name, is_declared=event is not None)
            return
        self._emitted.add(name)
        if event.is_open:
            return
        for key in sorted(fact.given.keys - event.keys.keys() - COLUMN_KEYS.keys()):
            self._add(
                fact.place,
                "error",
                Code.UNDECLARED_KEY,
                name,
                key,
                f"{fact.call}() gives the key {key!r}, which {name} does not declare. Declare it, "
                "or leave it out",
            )
        given = {event.keys.get(key) for key in fact.given.keys}
        for field in _required(event):
            if field not in given and not fact.given.is_open:
                self._add(
                    fact.place,
                    "error",
                    Code.MISSING_KEY,
                    name,
                    field,
                    f"{name} requires {field!r}, which {fact.call}() is not given: the event is "
                    "refused. Give it, or make it optional",
                )

    def _add_unknown_event(self, fact: FactSite, name: str, *, is_declared: bool) -> None:
        if fact.model is not None:
            place = f"{fact.model.__module__}.{fact.model.__qualname__}"
            why = "another class has its name" if is_declared else "it is refused"
            message = (
                f"the class {place} is not in the taxonomy; {why}. Add it, or use the one there"
            )
            self._add(fact.place, "error", Code.UNKNOWN_CLASS, name, None, message)
            return
        near = get_close_matches(name, [event.name for event in self._taxonomy], n=1)
        message = f"no event {name!r} is declared" + (
            f"; did you mean {near[0]!r}?" if near else "; declare it, or correct the name"
        )
        self._add(fact.place, "error", Code.UNKNOWN_EVENT, name, None, message)

    def _refuse_reserved(self, place: Place, name: str, key: str, call: str) -> None:
        self._add(
            place,
            "error",
            Code.RESERVED_KEY,
            name,
            key,
            f"{call} raises for the data key {key!r}, which is the name of an option, here or in a "
            f"later version: give fields={{{key!r}: …}}",
        )

    # Events.

    def check_emitted(self, mentioned: set[str]) -> None:
        """Report the events that nothing emits."""
        for event in self._taxonomy:
            if event.name in self._emitted or event.name in mentioned or event.model is None:
                continue
            self._add(
                _declared_at(event.model),
                "warning",
                Code.NEVER_EMITTED,
                event.name,
                None,
                f"nothing in these modules emits {event.name}; name the module that does as well",
            )


def _required(event: EventType | None) -> Iterator[str]:
    if event is not None and event.model is not None:
        for field, about in event.model.model_fields.items():
            if about.is_required():
                yield field


def _declared_at(model: type) -> Place:
    try:
        file, line = inspect.getsourcefile(model), inspect.getsourcelines(model)[1]
    except (OSError, TypeError):
        return Place(model.__module__, 0)
    return Place(shown_path(file or model.__module__), line)
