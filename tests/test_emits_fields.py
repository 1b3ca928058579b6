"""Data that is taken from a call: by name, by path, by a callable, and from ``**`` arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from tenantry import emits, tenant
from tenantry.exceptions import ConfigurationError
from tests.capturing import CapturingPipeline, capture_events

TENANT = "018f6f0e-0000-7000-8000-000000000001"
REPORT = {"docs": 1, "chunks": 2}
PAGE = SimpleNamespace(kind="web", link={"url": "https://example.com"})


@pytest.fixture
def events() -> Iterator[CapturingPipeline]:
    lenient = capture_events(taxonomy="tenantry.taxonomies.saas", strict=False)
    with lenient as captured, tenant(TENANT):
        yield captured


def stored(events: CapturingPipeline) -> list[tuple[str, str]]:
    return [(record.data["sourceType"], record.data["url"]) for record in events.records]


TAKEN = [("web", "https://example.com")] * 2


@pytest.mark.parametrize(
    "fields",
    [
        {"source_type": "page.kind", "url": "page.link.url"},
        {"source_type": lambda page: page.kind, "url": lambda page: page.link["url"]},
        {"sourceType": "page.kind", "url": lambda page: page.link["url"]},
    ],
    ids=["paths", "callables", "stored spelling"],
)
@pytest.mark.parametrize("how", ["positional", "keyword"])
def test_data_is_taken_from_the_call(events, fields, how):
    @emits("ingest", fields=fields)
    def ingest(page):
        return REPORT

    assert (ingest(PAGE) if how == "positional" else ingest(page=PAGE)) is REPORT
    assert stored(events) == TAKEN


def test_path_may_begin_with_self(events):
    @dataclass
    class Source:
        page: SimpleNamespace

        @emits("ingest", fields={"source_type": "self.page.kind", "url": "self.page.link.url"})
        def ingest(self):
            return REPORT

    Source(PAGE).ingest()
    assert stored(events) == TAKEN


def test_data_is_taken_for_coroutines_and_generators_too(events):
    fields = {"source_type": "page.kind", "url": "page.link.url"}

    @emits("ingest", fields=fields)
    async def fetch(page):
        return REPORT

    @emits("ingest", fields=fields)
    def read(page):
        yield 1
        return REPORT

    asyncio.run(fetch(PAGE))
    assert list(read(PAGE)) == [1]
    assert stored(events) == TAKEN * 2


def test_text_that_names_no_argument_is_a_value_and_so_is_every_keyword(events):
    @emits("ingest", fields={"url": "other.url"}, source_type="page")
    def ingest(page):
        return REPORT

    ingest(PAGE)
    assert stored(events) == [("page", "other.url")] * 2


def test_taken_data_counts_for_more_than_arguments_and_less_than_set(events):
    from tenantry import current_operation

    @emits("ingest", fields={"url": lambda source_type, url: url.lower()})
    def ingest(source_type, url):
        operation = current_operation()
        assert operation is not None
        operation.set(source_type="set")
        return REPORT

    ingest("web", "URL")
    assert stored(events) == [("web", "url"), ("set", "url")]


def test_keyword_counts_for_more_than_fields(events):
    @emits("ingest", fields={"url": "url.gone"}, url="given", source_type="web")
    def ingest(url):
        return REPORT

    ingest("argument")
    assert stored(events) == [("web", "given")] * 2


@pytest.mark.parametrize("field", ["page.gone", lambda page: page.gone], ids=["path", "callable"])
def test_extractor_that_fails_leaves_its_key_out_and_the_call_alone(events, caplog, field):
    @emits("ingest", fields={"source_type": field, "url": "page.link.url"})
    def ingest(page):
        return REPORT

    assert ingest(PAGE) is REPORT
    assert events.records == []
    assert [(reject.reason, reject.data) for reject in events.rejected] == [
        ("invalid", {"url": "https://example.com"}),
        ("invalid", {"url": "https://example.com", **REPORT}),
    ]
    assert "emits('ingest'): fields= raised AttributeError; the key is left out" in caplog.text


def test_extractor_that_fails_raises_before_the_body_in_strict_mode():
    ran = []
    with capture_events(taxonomy="tenantry.taxonomies.saas"), tenant(TENANT):

        @emits("ingest", fields={"url": "page.gone"}, source_type="web")
        def ingest(page):
            ran.append(page)

        with pytest.raises(ConfigurationError, match="fields= raised AttributeError for this call"):
            ingest(PAGE)
    assert ran == []


@pytest.mark.parametrize("spelling", ["source_type", "sourceType"])
def test_keyword_arguments_of_any_name_are_taken(events, spelling):
    @emits("ingest")
    def ingest(url, *rest, limit=1, **more):
        assert more.keys() == {spelling, "undeclared"}
        return REPORT

    ingest("https://example.com", 1, 2, undeclared=3, **{spelling: "web"})
    assert stored(events) == TAKEN


def test_undeclared_key_of_fields_is_removed_and_told_by_type(events, caplog):
    @emits("ingest", fields={"size": 3}, source_type="web")
    def ingest(url):
        return REPORT

    ingest("https://example.com")
    assert stored(events) == TAKEN
    assert "declares no key 'size'" in caplog.text
