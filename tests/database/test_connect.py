"""DSNs: what identifies a destination, and what never leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenantry.database.connect import connect, destination_fingerprint
from tenantry.exceptions import ConfigurationError
from tests.fix_postgres import Database


@pytest.fixture(autouse=True)
def no_libpq_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE", "PGSYSCONFDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "pg_service.conf"))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://db.example:5432/shop",
        "postgresql://app:s3cret@db.example/shop",
        "postgres://other@db.example/shop?sslmode=require&connect_timeout=3",
        "host=db.example dbname=shop user=app password=s3cret",
    ],
)
def test_fingerprint_is_that_of_server_database_and_schema(dsn: str):
    assert destination_fingerprint(dsn, "tenantry") == "db.example:5432/shop/tenantry"


def test_fingerprint_tells_destinations_apart():
    fingerprints = {
        destination_fingerprint(dsn, schema)
        for dsn in (
            "postgresql://a/x",
            "postgresql://b/x",
            "postgresql://a:99/x",
            "postgresql://a/y",
        )
        for schema in ("tenantry", "audit")
    }
    assert len(fingerprints) == 8


def test_fingerprint_names_all_hosts_of_a_cluster():
    fingerprint = destination_fingerprint("postgresql://a,b:5433/x", "tenantry")
    assert fingerprint == "a:5432,b:5433/x/tenantry"


def test_fingerprint_takes_defaults_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGPORT", "6000")
    assert destination_fingerprint("dbname=shop", "tenantry") == "db.example:6000/shop/tenantry"


def test_fingerprint_resolves_a_service_under_what_the_dsn_says(tmp_path: Path):
    service = "[billing]\n# where it is\nhost=db.example\nport=6000\ndbname=shop\npassword=s3cret\n"
    (tmp_path / "pg_service.conf").write_text(service)
    assert destination_fingerprint("service=billing", "t") == "db.example:6000/shop/t"
    assert destination_fingerprint("service=billing dbname=x", "t") == "db.example:6000/x/t"


def test_service_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "pg_service.conf").write_text("host=nowhere\n")
    with pytest.raises(ConfigurationError, match=r"service file .*pg_service\.conf cannot be read"):
        destination_fingerprint("service=billing", "t")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app:hun/ter2@db.invalid/app",
        "postgresql://app:12/ter2@db.invalid/app",
        "postgresql://app:hunter2@secret@db.invalid/app",
        "postgres://app:hun:ter/2@db.invalid/app",
        "postgresql://app:pw@db.invalid:ter2/app",
        "host=db.invalid:ter2 dbname=app",
    ],
)
def test_password_that_is_not_percent_encoded_is_refused_and_not_quoted(dsn: str):
    for read in (lambda: destination_fingerprint(dsn, "tenantry"), lambda: connect(dsn)):
        with pytest.raises(ConfigurationError, match="The DSN cannot be read") as caught:
            read()
        assert not any(part in str(caught.value) for part in ("hun", "ter2", "secret", "db.inv"))
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "dsn, fingerprint",
    [
        ("postgresql://app:hun%2Fter%402@db.example/app", "db.example:5432/app/t"),
        ("postgresql://app:p?w@[fe80::1%25eth0]:6000,b/app", "fe80::1%eth0:6000,b:5432/app/t"),
        ("postgresql://db.example/a%40b", "db.example:5432/a@b/t"),
        ("host=/run/a@b:c dbname=app", "/run/a@b:c:5432/app/t"),
        ("host=@abstract dbname=app", "@abstract:5432/app/t"),
    ],
    ids=["percent-encoded", "IPv6", "database", "directory", "abstract socket"],
)
def test_at_and_colon_are_taken_where_they_belong(dsn: str, fingerprint: str):
    assert destination_fingerprint(dsn, "t") == fingerprint


def test_connection_leaves_no_state_in_the_session(database: Database):
    with connect(database.writer) as connection:
        for _ in range(10):
            connection.execute("SELECT %s::text", ["x"])
        prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        timeout = connection.info.get_parameters()["tcp_user_timeout"]
    assert prepared == (0,)
    assert timeout == "10000"


def test_settings_of_the_dsn_are_kept(database: Database):
    with connect(f"{database.writer} application_name=shop tcp_user_timeout=7") as connection:
        parameters = connection.info.get_parameters()
    assert (parameters["application_name"], parameters["tcp_user_timeout"]) == ("shop", "7")
