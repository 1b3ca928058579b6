"""Configuration shows no password and no key: not in logs, errors, reprs, statistics."""

from __future__ import annotations

import io
import logging
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import tenantry
from tenantry import Pipeline, context, pipeline
from tenantry.cli.app import run
from tenantry.cli.options import Exit
from tenantry.database.connect import connect, describe_destination, destination_fingerprint
from tenantry.exceptions import AlreadyConfigured, ConfigurationError, DatabaseUnreachable
from tenantry.exporters.memory import MemoryExporter
from tenantry.exporters.postgres import PostgresExporter
from tenantry.settings import Settings, read_settings

PASSWORD = "hunter2"
URL = "postgresql://app:hunter2@127.0.0.1:1/shop"
PAIRS = "host=127.0.0.1 port=1 dbname=shop user=app password=hunter2"
KEYS = {"2026-11": "hunter2-" * 5}


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch):
    monkeypatch.setattr(pipeline, "configured", None)
    monkeypatch.setattr(pipeline, "_configured_with", {})
    monkeypatch.setattr(context, "_default_rule", context.TenantRule())
    yield
    if pipeline.configured is not None:
        pipeline.configured.shutdown(timeout=0)


@pytest.fixture(params=[URL, PAIRS], ids=["url", "pairs"])
def dsn(request) -> str:
    return request.param


def test_destination_is_named_without_the_password(dsn):
    assert describe_destination(dsn) == "127.0.0.1:1/shop"
    assert PASSWORD not in destination_fingerprint(dsn, "tenantry")


def test_database_out_of_reach_is_told_without_the_password(dsn):
    with pytest.raises(DatabaseUnreachable) as raised:
        connect(dsn, connect_timeout=1)
    assert "127.0.0.1:1/shop" in str(raised.value)
    assert PASSWORD not in repr(raised.value)


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://app:hunter2@h:port/shop",
        "postgresql://app:hun@ter/hunter2@h/shop",
        "postgresql://app:h%zz-hunter2@h/shop",
        "host=h passwort=hunter2",
        "host=h password='hunter2",
        "hunter2",
    ],
)
def test_dsn_that_cannot_be_read_is_not_shown(bad):
    with pytest.raises(ConfigurationError, match="The DSN cannot be read") as raised:
        connect(bad)
    assert PASSWORD not in repr(raised.value)


def test_service_file_that_cannot_be_read_is_not_quoted(tmp_path, monkeypatch):
    file = tmp_path / "pg_service.conf"
    file.write_text("[shop]\npassword hunter2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with pytest.raises(ConfigurationError, match=r"cannot be read \(ParsingError\): it takes") as e:
        describe_destination("service=shop")
    assert PASSWORD not in repr(e.value)


def test_pipeline_shows_no_password_in_repr_stats_reports_or_logs(dsn, tmp_path: Path, caplog):
    caplog.set_level(logging.DEBUG)
    made = Pipeline(
        dsn=dsn, journal=tmp_path, open_taxonomy="*", ship_interval=0.01, redaction_keys=KEYS
    )
    with made, tenantry.tenant("018f6f0e-0000-7000-8000-00000000000a"):
        tenantry.log_event("tried")
        report = made.flush(timeout=1)
    shown = [repr(each) for each in (made, made.exporter, made.stats(), report, made.redaction)]
    made.shutdown(timeout=0)
    assert report.error is not None
    assert PASSWORD not in "".join(shown) + caplog.text
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"tried" in written
    assert PASSWORD.encode() not in written


def test_exporter_shows_no_password(dsn):
    exporter = PostgresExporter(dsn)
    assert PASSWORD not in repr(exporter) + exporter.destination + exporter.fingerprint


def test_settings_show_no_password_and_no_key(dsn):
    shown = repr(Settings(dsn=dsn, redaction_keys=KEYS))
    assert "127" not in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    "given",
    [
        {"redaction_keys": {"2026-11": ["hunter2"]}},
        {"redaction_keys": ["hunter2"]},
        {"redaction_keys": {"2026-11": None, "hunter2": 5}},
        {"dsn": ["hunter2"]},
        {"dsn": URL, "strict": "maybe"},
    ],
)
def test_bad_settings_are_told_without_their_secrets(given):
    with pytest.raises(ConfigurationError) as raised:
        read_settings(given)
    assert PASSWORD not in repr(raised.value)


@pytest.mark.parametrize("keys", ["2026-11:hunter2", "hunter2", "2026-11:hunter2,,x"])
def test_bad_variable_of_keys_is_told_without_them(keys, monkeypatch):
    monkeypatch.setenv("TENANTRY_REDACTION_KEYS", keys)
    with pytest.raises(ConfigurationError, match="redaction_keys: ") as raised:
        tenantry.configure(exporter=MemoryExporter())
    assert PASSWORD not in repr(raised.value)


def test_other_settings_are_told_by_name(dsn):
    exporter = MemoryExporter()
    tenantry.configure(exporter=exporter, redaction_keys=KEYS)
    with pytest.raises(AlreadyConfigured, match="other settings of: dsn, redaction_keys") as raised:
        tenantry.configure(exporter=exporter, dsn=dsn, redaction_keys={"x": "hunter2-" * 6})
    assert PASSWORD not in repr(raised.value)


def test_redaction_is_set_by_variables(monkeypatch):
    monkeypatch.setenv("TENANTRY_REDACTION_KEYS", f"new: {'n' * 32}, old:{'o:' * 16}")
    monkeypatch.setenv("TENANTRY_SECRET_NAMES", "pin, mother_name")
    monkeypatch.setenv("TENANTRY_DETECT", "false")
    made = tenantry.configure(exporter=MemoryExporter())
    assert repr(made.redaction) == "Redaction(keys=['new', 'old'], detect=False)"
    assert made.redaction.is_secret("motherName")
    assert made.redaction.is_secret("pin")


# A property: whatever the password is, and wherever it stands.

SALT = st.text(st.characters(min_codepoint=32, max_codepoint=0x17F), max_size=6)
RESERVED = st.text(st.sampled_from("@:/?#[]&=%+ ,;'\"\\"), max_size=6)


@st.composite
def planted(draw: st.DrawFn) -> str:
    """Make a password whose beginning and end are known, so that a part of it is found as well."""
    return f"hunter2{draw(SALT | RESERVED)}hunter2"


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


WELL_FORMED: dict[str, Callable[[str], str]] = {
    "url": lambda p: f"postgresql://app:{quote(p, safe='')}@127.0.0.1:1/shop",
    "short scheme": lambda p: f"postgres://app:{quote(p, safe='')}@127.0.0.1:1/shop",
    "no user": lambda p: f"postgresql://:{quote(p, safe='')}@127.0.0.1:1/shop",
    "query": lambda p: f"postgresql://app@127.0.0.1:1/shop?password={quote(p, safe='')}",
    "all in the query": lambda p: (
        f"postgresql:///shop?host=127.0.0.1&port=1&user=app&password={quote(p, safe='')}"
    ),
    "of a key": lambda p: (
        f"postgresql://app@127.0.0.1:1/shop?sslpassword={quote(p, safe='')}&sslmode=disable"
    ),
    "pairs": lambda p: f"host=127.0.0.1 port=1 dbname=shop user=app password={quoted(p)}",
    "two hosts": lambda p: f"postgresql://app:{quote(p, safe='')}@127.0.0.1:1,127.0.0.1:2/shop",
}
MALFORMED: dict[str, Callable[[str], str]] = {
    "unescaped url": lambda p: f"postgresql://app:{p}@127.0.0.1:1/shop",
    "unescaped query": lambda p: f"postgresql://app@127.0.0.1:1/shop?password={p}",
    "unquoted pairs": lambda p: f"password={p} host=127.0.0.1 port=1 dbname=shop",
    "unquoted pairs, last": lambda p: f"host=127.0.0.1 port=1 dbname=shop password={p}",
    "url as the database's name": lambda p: (
        f"host=127.0.0.1 port=1 dbname=postgresql://app:{quote(p, safe='')}@127.0.0.1/shop"
    ),
    "pairs as the database's name": lambda p: (
        f"host=127.0.0.1 port=1 dbname={quoted(f'host=h password={quoted(p)}')}"
    ),
    "another scheme": lambda p: f"postgresql+psycopg://app:{quote(p, safe='')}@127.0.0.1:1/shop",
    "no scheme": lambda p: f"app:{p}@127.0.0.1:1/shop",
}


def everything_shown(dsn: str) -> str:
    """Do with a DSN what a process and an operator do, and give all that is said."""
    shown: list[str] = []
    for act in (
        lambda: describe_destination(dsn),
        lambda: destination_fingerprint(dsn, "tenantry"),
        lambda: connect(dsn, connect_timeout=1),
        lambda: repr(PostgresExporter(dsn)),
        lambda: PostgresExporter(dsn).check(time.monotonic() + 1),
        lambda: repr(Settings(dsn=dsn)),
        lambda: read_settings({"dsn": dsn, "strict": "maybe"}),
    ):
        try:
            shown.append(str(act()))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is shown to somebody
            shown += traceback.format_exception(error)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert run(["stats", "--dsn", dsn, "--json"]) == Exit.DATABASE
    return "".join((*shown, out.getvalue(), err.getvalue()))


@pytest.mark.parametrize("form", WELL_FORMED.values(), ids=WELL_FORMED.keys())
@settings(max_examples=5, deadline=None)
@given(password=planted())
def test_no_password_is_shown(form, password: str):
    shown = everything_shown(form(password))
    assert "127.0.0.1:1" in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize("form", MALFORMED.values(), ids=MALFORMED.keys())
@settings(max_examples=40, deadline=None)
@given(password=planted())
def test_no_part_of_a_password_is_shown_where_the_dsn_is_wrong(form, password: str):
    for show in (describe_destination, lambda dsn: destination_fingerprint(dsn, "tenantry")):
        try:
            shown = show(form(password))
        except ConfigurationError as error:
            shown = "".join(traceback.format_exception(error))
        assert PASSWORD not in shown


def test_password_of_the_environment_is_not_shown(tmp_path: Path, monkeypatch):
    services = tmp_path / "services"
    services.write_text("[shop]\nhost=127.0.0.1\nport=1\ndbname=shop\npassword=hunter2\n")
    passwords = tmp_path / "passwords"
    passwords.write_text("*:*:*:*:hunter2\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    for dsn in (
        "service=shop",
        "host=127.0.0.1 port=1 dbname=shop",
        "postgresql://127.0.0.1:1/shop",
    ):
        shown = everything_shown(dsn)
        assert "127.0.0.1:1/shop" in shown
        assert PASSWORD not in shown


def test_server_that_refuses_a_password_is_told_without_it(database18):
    parameters = conninfo_to_dict(database18.writer)
    wrong = make_conninfo("", **{**parameters, "user": "no_such_login", "password": "hunter2"})
    with pytest.raises(DatabaseUnreachable, match="no_such_login") as raised:
        connect(wrong)
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


def test_connection_string_as_the_name_of_a_database_is_not_shown(monkeypatch):
    monkeypatch.setenv("PGDATABASE", URL)
    with pytest.raises(ConfigurationError, match="The DSN cannot be read") as raised:
        describe_destination("host=127.0.0.1")
    assert PASSWORD not in repr(raised.value)
