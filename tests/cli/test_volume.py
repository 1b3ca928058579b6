"""`tenantry stats --volume` and `--sizes`: what grows, read under row-level security."""

from __future__ import annotations

import json
import re

import psycopg
import pytest
from psycopg import sql

from tenantry import Pipeline, Sampling, log_event, tenant
from tenantry.database import volume
from tests.cli.commands import OTHER_TENANT, TENANT, Command
from tests.fix_postgres import Database

INSERT = """
    INSERT INTO tenantry.events (id, tenant_id, name, created_at, data, sample_rate)
    SELECT gen_random_uuid(), %s, %s, now() - %s::interval, %s, %s FROM generate_series(1, %s)
"""


def insert(
    database: Database,
    name: str,
    rows: int,
    *,
    ago: str = "1 hour",
    data: object = "text",
    rate: float = 1.0,
    whose: str = TENANT,
) -> None:
    database.execute(INSERT, [whose, name, ago, json.dumps(data), rate, rows])


def stats(command: Command, database: Database, *options: object) -> dict:
    assert command("stats", "--dsn", database.owner, "--json", *options) == 0, command.err
    return command.json()


def by_name(rows: list[dict], label: str = "name") -> dict[str, dict]:
    return {row.pop(label): row for row in rows}


def test_volume_of_each_name_against_the_time_before(command: Command, database: Database):
    insert(database, "message_sent", 6, data={"a": 1, "b": 2})
    insert(database, "message_sent", 2, data={"a": 1, "c": 3}, rate=0.25)
    insert(database, "message_sent", 4, data={"d": 1}, ago="30 hours")
    insert(database, "old_one", 3, ago="47 hours")
    insert(database, "much_older", 3, ago="49 hours")
    insert(database, "new_one", 1, ago="23 hours")
    measured = stats(command, database, "--volume")
    assert measured.keys() == {"version", "since", "until", "names", "tenants"}
    assert by_name(measured["names"]) == {
        "message_sent": {
            "rows": 8,
            "events": 14,
            "events_before": 4,
            "bytes": 8 * len('{"a": 1, "b": 2}'),
            "bytes_before": 4 * len('{"d": 1}'),
            "keys": 3,
        },
        "new_one": {
            "rows": 1,
            "events": 1,
            "events_before": 0,
            "bytes": 6,
            "bytes_before": 0,
            "keys": 0,
        },
        "old_one": {
            "rows": 0,
            "events": 0,
            "events_before": 3,
            "bytes": 0,
            "bytes_before": 18,
            "keys": 0,
        },
    }


def test_length_of_time_is_as_asked_for(command: Command, database18: Database):
    insert(database18, "message_sent", 2, ago="20 minutes")
    insert(database18, "message_sent", 3, ago="40 minutes")
    insert(database18, "message_sent", 5, ago="70 minutes")
    measured = stats(command, database18, "--volume", "--since", "30m")
    assert measured["names"][0]["events"] == 2
    assert measured["names"][0]["events_before"] == 3


def test_largest_tenants_come_first(command: Command, database18: Database):
    insert(database18, "message_sent", 1, data="x" * 500)
    insert(database18, "message_sent", 5, whose=OTHER_TENANT, rate=0.5)
    insert(database18, "old_one", 2, whose=OTHER_TENANT, ago="30 hours")
    insert(database18, "new_one", 1, whose=OTHER_TENANT)
    measured = stats(command, database18, "--volume")
    assert list(by_name(measured["tenants"], "tenant_id").items()) == [
        (
            TENANT,
            {
                "rows": 1,
                "events": 1,
                "events_before": 0,
                "bytes": 502,
                "bytes_before": 0,
                "names": 1,
            },
        ),
        (
            OTHER_TENANT,
            {
                "rows": 6,
                "events": 11,
                "events_before": 2,
                "bytes": 36,
                "bytes_before": 12,
                "names": 2,
            },
        ),
    ]
    assert len(stats(command, database18, "--volume", "--top", 1)["tenants"]) == 1


def test_sizes_of_payloads_and_how_many_are_cut(command: Command, database: Database):
    pipeline = Pipeline(dsn=database.writer, open_taxonomy=["note"], max_payload_bytes=200)
    with pipeline, tenant(TENANT):
        for words in (*[30] * 60, 300, 400):
            log_event("note", text="ab " * words)
        assert pipeline.shutdown(20)
    assert pipeline.stats().truncated == 2
    insert(database, "note", 3, data="x" * 8, ago="30 hours")
    measured = stats(command, database, "--sizes")
    assert measured.keys() == {"version", "since", "until", "sizes"}
    (sizes,) = measured["sizes"]
    largest = sizes.pop("largest")
    assert 102 < largest <= 201  # the limit counts no blank after the colon
    assert sizes == {
        "name": "note",
        "rows": 62,
        "cut": 2,
        "cut_before": 0,
        "p50": 12 + 3 * 30,
        "p99": largest,
        "p50_before": 10,
        "p99_before": 10,
        "largest_before": 10,
    }


def test_both_are_shown_at_once_as_tables(command: Command, database18: Database):
    insert(database18, "message_sent", 3)
    insert(database18, "message_sent", 2, ago="30 hours")
    assert command("stats", "--dsn", database18.owner, "--volume", "--sizes") == 0
    lines = [line.split("\t") for line in command.out.splitlines()]
    assert lines[0] == ["# Volume by name, the last 1d against the 1d before"]
    assert lines[2] == ["message_sent", "3", "3", "+50%", "18", "+50%", "0"]
    assert lines[5] == [TENANT, "3", "3", "+50%", "18", "+50%", "1"]
    assert lines[8] == ["message_sent", "3", "6", "6", "6", "6", "6", "6", "0", "0"]
    assert "Names: 1, of which 0 are new." in command.err


def test_payload_that_is_no_object_has_no_keys(command: Command, database18: Database):
    insert(database18, "odd", 1, data=[1, 2])
    insert(database18, "odd", 1, data={"a": {"b": 1}})
    assert stats(command, database18, "--volume")["names"][0]["keys"] == 1


@pytest.mark.parametrize("option", ["--volume", "--sizes"])
def test_reader_is_told_which_role_is_missing(command: Command, database18: Database, option: str):
    assert command("stats", "--dsn", database18.reader, option) == 4
    assert "is no member of tenantry_admin" in command.err


def test_admin_is_enough(command: Command, database18: Database):
    insert(database18, "message_sent", 3)
    admin = database18.member_of("tenantry_admin".removeprefix("tenantry_"))
    assert command("stats", "--dsn", admin, "--volume", "--sizes", "--json") == 0
    assert command.json()["names"][0]["rows"] == 3


def test_bad_length_of_time_is_refused(command: Command, database18: Database):
    assert command("stats", "--dsn", database18.owner, "--volume", "--since", "soon") == 2
    assert "--since 'soon' is no length of time" in command.err


def test_query_that_takes_too_long_is_given_up(
    command: Command, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(volume, "_BY_NAME", "SELECT pg_sleep(30) FROM {events}")
    insert(database18, "message_sent", 1)
    code = command("stats", "--dsn", database18.owner, "--volume", "--timeout", "0.1")
    assert code == 4
    assert re.search(
        r"events of twice 86400 seconds took longer than 0.1 seconds, and was given up. Choose a "
        r"shorter time with --since",
        command.err,
    )


@pytest.mark.parametrize("query", ["_BY_NAME", "_BY_TENANT", "_SIZES"])
def test_only_partitions_of_the_time_asked_for_are_read(database18: Database, query: str):
    with psycopg.connect(database18.superuser) as connection:
        meter = volume.Meter(connection, "tenantry", since=3600, timeout=60)
        times = meter.stretch
        composed = sql.SQL("EXPLAIN " + getattr(volume, query)).format(events=meter._events)
        values = {"begin": times.begin, "middle": times.middle, "end": times.end}
        values |= {"limit": 10, "mark": "…[+"}
        plan = "\n".join(line for (line,) in connection.execute(composed, values))
    scanned = set(re.findall(r"events_\d{4}_\d\d", plan))
    assert 1 <= len(scanned) <= 2, plan


def test_estimates_of_a_sampled_flood_are_near_the_truth(command: Command, database: Database):
    sampling = {"tick": Sampling(0.2)}
    pipeline = Pipeline(dsn=database.writer, open_taxonomy=["tick"], sampling=sampling)
    with pipeline, tenant(TENANT):
        for _ in range(5000):
            log_event("tick")
        assert pipeline.shutdown(20)
    (row,) = stats(command, database, "--volume")["names"]
    assert row["events"] == pytest.approx(row["rows"] / 0.2, abs=1)
    assert abs(row["events"] - 5000) < 7 * (5000 * 0.8 / 0.2) ** 0.5
