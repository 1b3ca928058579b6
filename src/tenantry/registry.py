"""The taxonomy of a pipeline: its declared events by name, and where they are taken from.

Pure values: nothing here knows of tenants, journals or databases.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, cast

from tenantry.exceptions import TaxonomyError, UnknownEvent
from tenantry.redaction import Redaction
from tenantry.taxonomy import NAME, NAME_LIMIT, Event, EventType, OpenEventType, place_of


def _patterns(given: Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


class Taxonomy:
    """A set of declared events, and the patterns of names that need no declaration.

    ``events`` are ``Event`` subclasses; ``open_patterns`` are shell patterns such as ``plugin_*``.
    Raises ``TaxonomyError`` when two events have one name.
    """

    def __init__(
        self,
        events: Iterable[type[Event]] = (),
        *,
        open_patterns: Iterable[str] = (),
        redaction: Redaction | None = None,
    ) -> None:
        """Compile the events; a pipeline compiles them anew, for its own ``redaction``."""
        self._types: dict[str, EventType] = {}
        self._redaction = redaction or Redaction()
        self.open_patterns = _patterns(open_patterns)
        for event in events:
            self._add(event)

    def _add(self, event: type[Event]) -> None:
        if not (isinstance(event, type) and issubclass(event, Event) and event is not Event):
            raise TaxonomyError(f"{event!r:.120} is not a subclass of tenantry.Event")
        known = self._types.get(event.event_name)
        if known is not None and known.model is not event:
            raise TaxonomyError(
                f"two events are named {event.event_name!r}: "
                f"{place_of(known.model)} and {place_of(event)}; rename one"
            )
        self._types[event.event_name] = EventType(event, self._redaction)

    def __iter__(self) -> Iterator[EventType]:
        return iter([t for t in self._types.values() if t.model is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def find(self, name: str) -> EventType | None:
        """Give the event of that name, or None where it is neither declared nor open."""
        found = self._types.get(name)
        if found is None and any(fnmatchcase(name, pattern) for pattern in self.open_patterns):
            if not NAME.fullmatch(name) or len(name) > NAME_LIMIT:
                return None
            found = OpenEventType(name, self._redaction)
        return found

    def get(self, name: str) -> EventType:
        """Give the event of that name; ``UnknownEvent`` with the nearest names otherwise."""
        found = self.find(name)
        if found is None:
            raise UnknownEvent(
                f"no event {name!r:.120} is declared; declared are: "
                f"{', '.join(sorted(self._types)) or 'none'}. Declare it as a subclass of "
                "tenantry.Event in the taxonomy, or allow its name by open_taxonomy"
            )
        return found

    def phase(self, operation: str, endings: tuple[str, ...]) -> EventType | None:
        """Give the event of an operation that has the first of ``endings`` that exists."""
        for ending in endings:
            declared = self._types.get(f"{operation}_{ending}")
            if declared is not None:
                return declared
        return self.find(f"{operation}_{endings[0]}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Taxonomy):
            return NotImplemented
        mine = {name: t.model for name, t in self._types.items()}
        theirs = {name: t.model for name, t in other._types.items()}
        return mine == theirs and self.open_patterns == other.open_patterns

    __hash__ = None  # type: ignore[assignment]  # mutable by nature of its models


def load_taxonomy(
    source: str | ModuleType | Taxonomy | Iterable[type[Event]] | None,
    open_patterns: Iterable[str] = (),
    redaction: Redaction | None = None,
) -> Taxonomy:
    """Make a taxonomy from what ``configure(taxonomy=…)`` takes.

    A ``Taxonomy``; ``Event`` classes; a module, whose ``Event`` subclasses are taken; or the dotted
    name of a module, or ``module:attribute``. Raises ``TaxonomyError``.
    """
    patterns = _patterns(open_patterns)
    if source is None:
        return Taxonomy(open_patterns=patterns, redaction=redaction)
    found: Any = _import(source) if isinstance(source, str) else source
    if isinstance(found, Taxonomy):
        events = [t.model for t in found if t.model is not None]
        return Taxonomy(
            events, open_patterns=(*found.open_patterns, *patterns), redaction=redaction
        )
    if isinstance(found, ModuleType):
        return Taxonomy(_events_of(found), open_patterns=patterns, redaction=redaction)
    if inspect.isclass(found) or isinstance(found, str) or not isinstance(found, Iterable):
        raise TaxonomyError(
            f"{found!r:.120} is no taxonomy: give a module or its dotted name, Event classes in a "
            "list, or a Taxonomy"
        )
    return Taxonomy(
        cast("Iterable[type[Event]]", found), open_patterns=patterns, redaction=redaction
    )


def _events_of(module: ModuleType) -> list[type[Event]]:
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Event) and value is not Event
    ]
    if not found:
        raise TaxonomyError(f"the module {module.__name__} declares no subclass of Event")
    return found


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # an empty or a relative name too
        raise TaxonomyError(
            f"the taxonomy {name!r:.120} cannot be imported: {error}. Give the dotted name of a "
            "module that declares Event subclasses, as in 'tenantry.taxonomies.saas'"
        ) from error
    if attribute:
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise TaxonomyError(f"the module {module} has no attribute {attribute!r}") from None
    return found
