"""What ``configure()`` and ``Pipeline(…)`` refuse, and how they say it."""

from __future__ import annotations

import pytest

import tenantry
from tenantry import context, pipeline
from tenantry.exceptions import AlreadyConfigured, ConfigurationError, TaxonomyError
from tenantry.exporters.memory import MemoryExporter
from tenantry.taxonomies import saas


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch):
    """Begin and end as a process that has configured nothing."""
    for name in ("configured", "_configured_with"):
        monkeypatch.setattr(pipeline, name, None if name == "configured" else {})
    monkeypatch.setattr(context, "_default_rule", context.TenantRule())
    for name in ("TENANTRY_DSN", "TENANTRY_STRICT"):
        monkeypatch.delenv(name, raising=False)
    yield
    if pipeline.configured is not None:
        pipeline.configured.shutdown()


def test_nowhere_to_send_events_is_told():
    with pytest.raises(ConfigurationError, match=r"there is nowhere to send events: pass dsn=… "):
        tenantry.configure(taxonomy=saas)
    assert pipeline.configured is None


@pytest.mark.parametrize(
    "options, text",
    [
        ({"tenant_type": "int"}, "tenant_type='int': Input should be 'uuid', 'bigint' or 'text'"),
        ({"durability": "none"}, "durability='none': Input should be 'process' or 'power'"),
        ({"journal_max_bytes": 1}, "journal_max_bytes=1: Input should be greater than or equal"),
        ({"max_payload_bytes": 1}, "max_payload_bytes=1: Input should be greater than or equal"),
        ({"ship_interval": 0}, "ship_interval=0: Input should be greater than 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_option_is_named(options, text):
    with pytest.raises(ConfigurationError, match=f"cannot use these settings: {text}"):
        tenantry.configure(exporter=MemoryExporter(), **options)


def test_bad_variable_is_told_with_its_value(monkeypatch):
    monkeypatch.setenv("TENANTRY_STRICT", "maybe")
    with pytest.raises(ConfigurationError, match="strict='maybe': Input should be a valid boolean"):
        tenantry.configure(exporter=MemoryExporter())


def test_dsn_is_never_shown():
    with pytest.raises(ConfigurationError, match="dsn: Input should be a valid string") as raised:
        tenantry.configure(dsn=b"postgresql://app:hunter2@\xff")
    assert "hunter2" not in str(raised.value)


def test_empty_dsn_is_a_missing_one():
    with pytest.raises(ConfigurationError, match="there is nowhere to send events"):
        tenantry.configure(dsn="")


@pytest.mark.parametrize("sampling", [{"ingest": 0.5}, 0.5])
def test_sampling_that_is_no_sampling_is_told(sampling):
    with pytest.raises(ConfigurationError, match=r"give a mapping of names to Sampling, as in"):
        tenantry.configure(exporter=MemoryExporter(), sampling=sampling)


def test_open_taxonomy_may_be_one_text():
    exporter = MemoryExporter()
    tenantry.configure(exporter=exporter, open_taxonomy="plugin_*, hook_*")
    with tenantry.tenant("018f6f0e-0000-7000-8000-00000000000a"):
        for name in ("plugin_ran", "hook_ran", "anything"):
            tenantry.log_event(name)
    assert [record.name for record in exporter.records] == ["plugin_ran", "hook_ran"]
    assert [reject.reason for reject in exporter.rejected] == ["unknown_event"]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"tenant_type": "int"}, "tenant_type='int' is unknown; it is one of uuid, bigint, text"),
        ({"durability": "powr"}, "durability='powr' is unknown; it is one of process, power"),
        ({"on_full": "block"}, "on_full='block' is unknown; it is one of drop, wait"),
        ({"journal_max_bytes": 1}, "journal_max_bytes=1 is not possible; give a number, 4194304"),
        ({"max_payload_bytes": -5}, "max_payload_bytes=-5 is not possible; give a number, 64"),
        ({"ship_interval": -1}, "ship_interval=-1 is not possible; give a number, 0.001 or more"),
        ({"shutdown_timeout": "5"}, "shutdown_timeout='5' is not possible; give a number, 0 or"),
        ({"sampling": {"ingest": 0.5}}, "sampling={'ingest': 0.5} is not possible; give a mapping"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_pipeline_checks_its_options_as_configure_does(options, text):
    with pytest.raises(ConfigurationError) as raised:
        tenantry.Pipeline(exporter=MemoryExporter(), **options)
    assert text in str(raised.value)


def test_again_with_the_same_settings_gives_the_same_pipeline():
    exporter = MemoryExporter()
    first = tenantry.configure(exporter=exporter, taxonomy="tenantry.taxonomies.saas", strict=True)
    again = tenantry.configure(exporter=exporter, taxonomy="tenantry.taxonomies.saas", strict=True)
    assert again is first
    assert pipeline.current_pipeline() is first


def test_again_with_other_settings_is_refused():
    exporter = MemoryExporter()
    tenantry.configure(exporter=exporter, service="a")
    with pytest.raises(AlreadyConfigured, match="called before with other settings of: service"):
        tenantry.configure(exporter=exporter, service="b")


def test_after_a_shutdown_it_may_be_configured_anew():
    first = tenantry.configure(exporter=MemoryExporter(), service="a")
    tenantry.shutdown()
    assert tenantry.configure(exporter=MemoryExporter(), service="b") is not first


def test_taxonomy_that_is_not_there_is_told():
    with pytest.raises(TaxonomyError, match=r"'no.such.module' cannot be imported"):
        tenantry.configure(exporter=MemoryExporter(), taxonomy="no.such.module")


def test_pipeline_refuses_an_unknown_tenant_type():
    with pytest.raises(ConfigurationError, match="tenant_type='int' is unknown; it is one of uu"):
        tenantry.Pipeline(exporter=MemoryExporter(), tenant_type="int")


@pytest.mark.parametrize("name", ["flush", "shutdown", "stats"])
def test_before_configure_there_is_nothing_to_ask(name):
    with pytest.raises(ConfigurationError, match=r"nothing is configured yet; call tenantry.conf"):
        getattr(tenantry, name)()
