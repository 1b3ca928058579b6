"""What is generated of a taxonomy: snapshot, JSON Schema, TypeScript, tracking plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenantry import Event, Taxonomy
from tenantry.exceptions import ConfigurationError, TaxonomyError
from tenantry.registry import load_taxonomy
from tenantry.tracking.markdown import tracking_plan
from tenantry.tracking.snapshot import (
    Snapshot,
    attribute_docstrings,
    phase_of,
    read_snapshot,
    take_snapshot,
)
from tenantry.tracking.stored import json_schema
from tenantry.tracking.typescript import typescript
from tests.tracking import taxonomies
from tests.tracking.taxonomies import SAMPLING, TAXONOMY

GOLDEN = Path(__file__).parent / "golden"
TAKEN = take_snapshot(TAXONOMY)


@pytest.mark.parametrize(
    "name,made",
    [
        ("snapshot.json", TAKEN.text()),
        ("schema.json", json.dumps(json_schema(TAKEN), indent=2) + "\n"),
        ("events.ts", typescript(TAKEN)),
        ("plan.md", tracking_plan(TAKEN, SAMPLING)),
    ],
    ids=["snapshot", "JSON Schema", "TypeScript", "tracking plan"],
)
def test_output_is_the_golden_file(name: str, made: str):
    assert made == (GOLDEN / name).read_text()


# Snapshots.


def test_snapshot_is_read_back_as_it_was():
    assert read_snapshot(TAKEN.text(), "a.json") == TAKEN


@pytest.mark.parametrize(
    "text,why",
    [
        ("{", "Invalid JSON"),
        ("{}", "events: Field required"),
        ('{"format_version": 2, "events": {}}', "format_version: Input should be 1"),
    ],
    ids=["no JSON", "not a snapshot", "a later format"],
)
def test_what_is_no_snapshot_is_refused_with_the_place(text: str, why: str):
    with pytest.raises(ConfigurationError, match=rf"a\.json is no snapshot .*{why}"):
        read_snapshot(text, "a.json")


def test_what_was_removed_is_kept_as_retired_until_it_comes_back():
    fewer = take_snapshot(Taxonomy([taxonomies.ImportStarted]), TAKEN)
    assert set(fewer.retired) == {"import_failed", "import_succeeded", "invoice_sent"}
    assert fewer.retired["invoice_sent"] == TAKEN.events["invoice_sent"]
    even_fewer = take_snapshot(Taxonomy([]), fewer)
    assert set(even_fewer.retired) == set(TAKEN.events)
    assert take_snapshot(TAXONOMY, even_fewer) == TAKEN


@pytest.mark.parametrize(
    "name,phase",
    [
        ("import_started", ("import", "started")),
        ("import_succeeded", ("import", "completed")),
        ("conversation_started", None),
        ("mail_sent", None),
    ],
)
def test_phase_is_told_by_a_sibling(name: str, phase: tuple[str, str] | None):
    names = ("import_started", "import_succeeded", "conversation_started", "mail_sent")
    assert phase_of(name, names) == phase


def test_texts_below_fields_are_read_with_those_of_parents():
    class Child(taxonomies.InvoiceSent):
        amount: int
        """In cents."""

    assert attribute_docstrings(Child) == {"amount": "In cents."}
    assert attribute_docstrings(taxonomies.InvoiceSent) == {"amount": "In full | with tax."}


# Owners.


def test_owner_is_inherited_and_none_by_default():
    class Child(taxonomies.InvoiceSent):
        pass

    assert (Child.event_owner, taxonomies.ImportStarted.event_owner) == ("billing", None)


def test_owner_that_is_no_text_is_refused():
    with pytest.raises(TaxonomyError, match=r"Wrong: owner=3 is not a text: name the team"):
        type("Wrong", (Event,), {}, owner=3)


# What is stored is what the schema says.


def test_names_that_would_be_one_type_in_typescript_are_told_apart():
    one = type("One", (Event,), {}, name="a_1")
    other = type("Other", (Event,), {}, name="a1")
    made = typescript(take_snapshot(Taxonomy([one, other])))
    assert 'export interface A1 {\n  name: "a1"' in made
    assert 'export interface A12 {\n  name: "a_1"' in made


def test_empty_taxonomy_is_published_too():
    empty = Snapshot(events={})
    assert "TenantryEvent = never;" in typescript(empty)
    assert json_schema(empty)["oneOf"] == []
    assert tracking_plan(empty, {}) == "# Tracking plan\n\n0 events, by name.\n"


def test_starter_taxonomy_is_published():
    starter = take_snapshot(load_taxonomy("tenantry.taxonomies.saas"))
    assert 'role: "user" | "assistant";' in typescript(starter)
    assert "How sure the assistant was" in tracking_plan(starter, {})
