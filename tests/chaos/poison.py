"""Poison: rows that PostgreSQL refuses. Only they go to ``rejected_events``, with all they hold."""

from __future__ import annotations

import sys
from uuid import UUID

import psycopg

from tests.chaos.disk import identity_of
from tests.chaos.harness import OTHER_TENANT, TENANT, Field, Truth, cell, wait_until
from tests.chaos.workers import Worker, settle
from tests.journal.journals import append_event, die, make_journal

GROUP = "Poison"

BRISK = {"LONGEST_BACKOFF": 0.1, "LONGEST_SOON": 0.1, "HOLD": 0.1, "PATIENCE": 0.5}

RETRIED = {"books": "retried rows moved from rejected_events to events: the ledger tells of them"}
"""The sum over the cursors stays as it was counted."""


def reject_rows(field: Field, where: str) -> list[tuple]:
    return field.database.execute(
        "SELECT id::text, detail, event IS NOT NULL FROM tenantry.rejected_events"
        f" WHERE reason = 'database' AND {where}"
    )


def command(field: Field, *arguments: str) -> None:
    """Run ``tenantry`` as the owner, and see that it succeeds."""
    main = [sys.executable, "-c", "from tenantry.cli import main; main()"]
    done = field.run(main, *arguments, "--dsn", field.database.owner)
    assert done.code == 0, (done.code, done.output, done.errors)


def retry_all(field: Field, stored: int) -> Truth:
    """Bring back what is mended, and see that it is all there and that the books say so."""
    command(field, "rejected", "retry", "--all")
    assert field.count("rejected_events") == 0
    assert field.count() == stored
    assert field.drain().code == 0
    command(field, "stats")  # it ends with 1 when the books do not balance
    return Truth(waived=RETRIED)


@cell(GROUP, "CHECK constraint of the host's")
def check(field: Field) -> Truth:
    count = field.scale.of(short=600, full=6_000)
    field.database.execute(
        "ALTER TABLE tenantry.events ADD CONSTRAINT host CHECK ((data->>'number')::int % 100 <> 7)"
    )
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=count)
        settle(field, worker)
        bad = count // 100
        assert worker("stats")["rejected"] == bad
    rows = reject_rows(field, "(event->'data'->>'number')::int % 100 = 7")
    assert len(rows) == bad, rows
    assert all(detail.startswith("23514") and whole for _, detail, whole in rows), rows[0]
    field.database.execute("ALTER TABLE tenantry.events DROP CONSTRAINT host")
    return retry_all(field, count)


@cell(GROUP, "foreign key to tenants: a sign-up that commits late, and a tenant that is deleted")
def foreign_key(field: Field) -> Truth:
    field.database.execute("CREATE TABLE public.tenants (id uuid PRIMARY KEY)")
    field.database.execute("GRANT REFERENCES ON public.tenants TO host_owner")
    insert = "INSERT INTO public.tenants VALUES (%s)"
    field.database.execute(insert, [TENANT])
    field.database.execute(
        "ALTER TABLE tenantry.events ADD FOREIGN KEY (tenant_id) REFERENCES public.tenants"
    )
    deleted = "018f6f0e-0000-7000-8000-00000000000d"
    with Worker(field, own={**BRISK, "PATIENCE": 60.0}) as worker:
        worker("emit", count=50)
        with psycopg.connect(field.database.superuser) as signing_up:
            signing_up.execute(insert, [OTHER_TENANT])
            worker("emit", count=50, tenant=OTHER_TENANT)
            # The server waits for the sign-up's transaction, or does not see it: either will do.
            worker("flush", timeout=0.2)
        settle(field, worker)
    with Worker(field, own=BRISK) as worker:
        worker("emit", count=20, tenant=deleted)
        worker("emit", count=50, tenant=OTHER_TENANT)
        settle(field, worker)
        assert worker("stats")["rejected"] == 20
    rows = reject_rows(field, f"tenant_id = '{deleted}'")
    assert len(rows) == 20, rows
    assert all(detail.startswith("23503") and whole for _, detail, whole in rows), rows[0]
    field.database.execute(insert, [deleted])
    return retry_all(field, 170)


BY_HAND = {
    "a tenant that is no UUID": {"tenant_id": "not-a-uuid"},
    "a time that is none": {"created_at": "the day before yesterday"},
    "a version beyond smallint": {"event_version": 99_999},
    "a phase that is none": {"phase": "halfway"},
    "a duration that is text": {"duration_ms": "long"},
    "a NUL within the data": {"data": {"text": "a\0b"}},
    "a lone surrogate": {"data": {"text": "\ud800"}},
    "a NUL in a text column": {"actor_id": "a\0b"},
    "a rate beyond 1": {"sample_rate": 17},
    "no name": {"name": None},
    "no id": {"id": None},
    "an operation that is none": {"operation_id": "x"},
    "a number beyond double precision": {"duration_ms": 10**400},
}


@cell(GROUP, "invalid values that reached the journal by hand")
def by_hand(field: Field) -> Truth:
    rounds = field.scale.of(short=1, full=40)
    good: list[str] = []
    number = 0
    for _ in range(rounds):
        journal = make_journal(field.journal, identity=identity_of(field))
        for values in BY_HAND.values():
            for bad in (False, True, False):
                number += 1
                append_event(journal, number, **(values if bad else {}))
                if not bad:
                    good.append(str(UUID(int=number)))
        die(journal)
    done = field.drain()
    assert done.code == 0, done.output + done.errors
    rows = reject_rows(field, "true")
    details = {detail for _, detail, _ in rows}
    assert all(detail[:2] in {"22", "23"} for detail in details), details
    whole = sum(kept for *_, kept in rows)
    impossible = sum("NUL" in each or "surrogate" in each for each in BY_HAND)
    assert whole >= rounds * (len(BY_HAND) - impossible - 1), rows
    return Truth(
        times=rounds * len(BY_HAND),
        acknowledged=tuple(good),
        rejected={"database": rounds * len(BY_HAND)},
        waived={"tallies": "what was refused for its tenant, name or id is in nobody's tally"},
    )


@cell(GROUP, "constraint that comes and goes under load")
def comes_and_goes(field: Field) -> Truth:
    times = field.scale.of(short=2, full=15)
    with (
        Worker(field, own=BRISK) as worker,
        psycopg.connect(field.database.superuser, autocommit=True) as connection,
    ):
        worker("start_load")
        for _ in range(times):
            before = field.count("rejected_events")
            connection.execute(
                "ALTER TABLE tenantry.events ADD CONSTRAINT host"
                " CHECK ((data->>'number')::int % 50 <> 7) NOT VALID"
            )
            wait_until(lambda before=before: field.count("rejected_events") > before)
            connection.execute("ALTER TABLE tenantry.events DROP CONSTRAINT host")
        worker("end_load")
        settle(field, worker)
    rejected = field.count("rejected_events")
    assert rejected == len(reject_rows(field, "(event->'data'->>'number')::int % 50 = 7"))
    return Truth(times=times, rejected={"database": rejected})
