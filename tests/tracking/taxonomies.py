"""Taxonomies to publish: events with every kind of type, and snapshots made at random."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tenantry import Event, Sampling, Sensitive, Taxonomy
from tenantry.tracking.snapshot import DeclaredEvent, Key, Snapshot


class Currency(Enum):
    EUR = "eur"
    USD = "usd"


class Line(BaseModel):
    text: str
    """What was sold."""
    note: Annotated[str, Sensitive("drop")]
    parent: Line | None = None


class Card(BaseModel):
    kind: Literal["card"]


class Transfer(BaseModel):
    kind: Literal["transfer"]


class InvoiceSent(Event, version=3, owner="billing"):
    """An invoice went out.

    Once; a */ within does no harm.
    """

    invoice_id: UUID
    amount: Decimal | None
    """In full | with tax."""
    currency: Currency
    sent_on: date
    paid_at: datetime | None = None
    lines: list[Line] = Field([])
    totals: dict[str, int] = Field({})
    place: tuple[float, float] | None = None
    payment: Annotated[Card | Transfer, Field(discriminator="kind")]
    email: Annotated[str, Sensitive("hash"), Field(max_length=200, description="Of the payer")]
    number: Annotated[str, Sensitive("mask", last=4)] | None = None
    secret: Annotated[str, Sensitive("drop")]
    code: int | str = 3
    more: Any = None
    is_paid: bool = False


class ImportStarted(Event):
    pass


class ImportSucceeded(Event):
    rows: int = Field(ge=0)


class ImportFailed(Event, detect=False):
    error_code: str


TAXONOMY = Taxonomy(
    [InvoiceSent, ImportStarted, ImportSucceeded, ImportFailed], open_patterns=["plugin_*"]
)
SAMPLING = {"import": Sampling(0.25, key="rows")}

TYPES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "maxLength": 40, "minLength": 2},
    {"type": "string", "pattern": "^a"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "x-sensitive": "hash"},
    {"type": "integer"},
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 9},
    {"type": "number"},
    {"type": "boolean"},
    {"enum": ["a", "b", "c"], "type": "string"},
    {"const": "a", "type": "string"},
    {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
    {"oneOf": [{"$ref": "#/$defs/Inner"}, {"type": "integer"}]},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "maxItems": 1},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"$ref": "#/$defs/Inner"},
    {},
]
INNER = {
    "type": "object",
    "properties": {
        "x": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]},
    },
    "required": ["x"],
}

key_names = st.sampled_from(["a", "b", "url", "sourceType", "chunks"])
event_names = st.sampled_from(
    [f"{each}_{end}" for each in ("a", "mail") for end in ("started", "failed", "sent")]
)
keys = st.builds(
    Key,
    required=st.booleans(),
    json_schema=st.sampled_from(TYPES),
    description=st.sampled_from(["", "A text."]),
)
events = st.builds(
    DeclaredEvent,
    version=st.integers(2, 9),
    description=st.sampled_from(["", "It happened."]),
    owner=st.sampled_from([None, "billing"]),
    detect=st.booleans(),
    keys=st.dictionaries(key_names, keys, max_size=4),
    definitions=st.just({"Inner": INNER}),
)
snapshots = st.builds(
    Snapshot,
    events=st.dictionaries(event_names, events, min_size=1, max_size=4),
    open_taxonomy=st.sampled_from([(), ("plugin_*",)]),
    retired=st.dictionaries(st.just("gone_sent"), events, max_size=1),
)
