"""The proof from outside: what HTTP acknowledged, held against what the database has.

Nothing here asks Tenantry: only the ledger of what was sent, and plain SQL.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from helpdesk.demo.ledger import Entry, Ledger
from helpdesk.demo.output import print_table, say

Answers = Mapping[str, Mapping[str, int]]
"""How often each endpoint of the outside world gave each status."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the proof."""

    claim: str
    subjects: int
    """What there was to check."""
    violations: int


def check_all(
    connection: psycopg.Connection, ledger: Ledger, answers: Answers | None
) -> list[Check]:
    """Check everything; without ``answers``, not the deliveries, which may go on meanwhile."""
    checks = [
        *_check_requests(connection, ledger),
        _check_errors(connection, ledger),
        _check_sampling(connection, ledger),
        *_check_webhooks(connection, ledger),
        *(_check(connection, claim, query) for claim, query in _CLAIMS),
    ]
    return checks if answers is None else [*checks, _check_deliveries(connection, answers)]


def print_checks(checks: list[Check], *, balanced: bool) -> bool:
    """Print the checks and the verdict; True when all hold."""
    print_table(
        "The proof from outside",
        ("claim", "checked", "violations", ""),
        [
            (check.claim, check.subjects, check.violations, "NO" if check.violations else "ok")
            for check in checks
        ],
        marked=[index for index, check in enumerate(checks) if check.violations],
    )
    broken = sum(1 for check in checks if check.violations)
    if broken or not balanced:
        books = "" if balanced else "the books do not balance; "
        say(f"\nNO: {books}{broken} of {len(checks)} claims do not hold.", "bold red")
        return False
    say(
        f"\nYES: the books balance, and all {len(checks)} claims hold: everything that was"
        " acknowledged is there exactly once, in its own tenant.",
        "bold green",
    )
    return True


# Requests. What a request makes happen carries its id, as the correlation id.


def _check_requests(connection: psycopg.Connection, ledger: Ledger) -> list[Check]:
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    foreign = 0
    owners = {entry.request_id: str(entry.customer.id) for entry in ledger.entries}
    rows = connection.execute(_BY_REQUEST).fetchall()
    for request_id, tenant_id, name, count in rows:
        found[request_id][name] += count
        foreign += owners.get(request_id) != tenant_id
    promised: Counter[str] = Counter()
    violations: Counter[str] = Counter()
    for entry in ledger.entries:
        kind = "requests without an answer" if entry.status is None else entry.kind
        promised[kind] += 1
        violations[kind] += not _is_kept(entry, found[entry.request_id])
    checks = [
        Check(_CLAIMS_OF_REQUESTS[kind], promised[kind], violations[kind])
        for kind in _CLAIMS_OF_REQUESTS
        if promised[kind]
    ]
    return [
        *checks,
        Check("no row is another tenant's, or of a request never sent", len(rows), foreign),
    ]


_BY_REQUEST: Final = """
    SELECT correlation_id, tenant_id::text, name, count(*) FROM tenantry.events
     WHERE correlation_id IS NOT NULL AND service = 'helpdesk' GROUP BY 1, 2, 3
"""

_CLAIMS_OF_REQUESTS: Final = {
    "start conversation": "each conversation has its one conversation_started",
    "send message": "each message has its rows; each escalation, each 429 exactly one",
    "import conversations": "each import has one conversation_started for each conversation",
    "ingest source": "each ingestion has one started, and one completed or failed",
    "start checkout": "each checkout has its one checkout_started",
    "requests without an answer": "what was not answered has each row once, or not at all",
}


def _is_kept(entry: Entry, rows: Counter[str]) -> bool:
    names = {*rows, *entry.at_least}
    return all(
        entry.at_least.get(name, 0) <= rows[name] <= entry.at_most.get(name, 0) for name in names
    )


def _check_errors(connection: psycopg.Connection, ledger: Ledger) -> Check:
    codes: dict[str, str] = dict(
        connection.execute(
            "SELECT correlation_id, error_code FROM tenantry.events WHERE name = 'ingest_failed'"
        ).fetchall()
    )
    told = [entry for entry in ledger.entries if entry.error_code is not None]
    wrong = sum(1 for entry in told if codes.get(entry.request_id) != entry.error_code)
    return Check("each failed ingestion has the error code that was answered", len(told), wrong)


def _check_sampling(connection: psycopg.Connection, ledger: Ledger) -> Check:
    """Of each conversation, all messages are there or none."""
    sent: Counter[str] = Counter()
    unsure: set[str] = set()
    for entry in ledger.entries:
        if entry.kind == "send message" and entry.conversation_id is not None:
            sent[entry.conversation_id] += entry.at_most.get("message_sent", 0)
            if entry.status != 200:
                unsure.add(entry.conversation_id)
    rows: dict[str, int] = dict(connection.execute(_MESSAGES).fetchall())
    sure = [conversation for conversation in sent if conversation not in unsure]
    broken = sum(1 for each in sure if rows.get(each, 0) not in {0, sent[each]})
    return Check("of a sampled conversation, all messages are there, or none", len(sure), broken)


_MESSAGES: Final = """
    SELECT data ->> 'conversationId', count(*) FROM tenantry.events
     WHERE name = 'message_sent' GROUP BY 1
"""


# Webhooks. They have no correlation: what they tell is matched by what is in it.


def _check_webhooks(connection: psycopg.Connection, ledger: Ledger) -> list[Check]:
    rows: Counter[Any] = Counter(
        (str(tenant_id), name, created_at.astimezone(UTC), tuple(sorted(data.items())))
        for tenant_id, name, created_at, data in connection.execute(
            "SELECT tenant_id, name, created_at, data FROM tenantry.events"
            " WHERE actor_id = 'stripe'"
        )
    )
    acknowledged: set[Any] = set()
    possible: set[Any] = set()
    forged_accepted = 0
    for webhook in ledger.webhooks:
        created_at = datetime.fromtimestamp(webhook.created, UTC)
        key = (
            *(str(webhook.customer.id), webhook.name, created_at),
            tuple(sorted(webhook.data.items())),
        )
        if webhook.is_forged:
            forged_accepted += webhook.status != 400 or rows[key] > 0
            continue
        possible.add(key)
        if webhook.status == 200:
            acknowledged.add(key)
    wrong = sum(1 for key in acknowledged if rows[key] != 1)
    wrong += sum(1 for key, count in rows.items() if key not in possible or count > 1)
    forged = sum(1 for webhook in ledger.webhooks if webhook.is_forged)
    return [
        Check("each webhook has one row, however often it came", len(acknowledged), wrong),
        Check("a forged webhook is refused, and leaves nothing", forged, forged_accepted),
    ]


# Deliveries.


def _check_deliveries(connection: psycopg.Connection, answers: Answers) -> Check:
    """Hold the calls that the endpoints answered against the rows of calls that were answered.

    An answer may come too late to be taken: such a call has timed out, as have those that the world
    never answered (0).
    """
    ((answered, timed_out),) = connection.execute(_DELIVERIES).fetchall()
    silent = sum(counts.get("0", 0) for counts in answers.values())
    given = sum(sum(counts.values()) for counts in answers.values()) - silent
    holds = answered <= given <= answered + max(0, timed_out - silent)
    return Check("each call that an endpoint answered has one row", given, int(not holds))


_DELIVERIES: Final = """
    SELECT count(*) FILTER (WHERE error_code IS NULL OR error_code LIKE 'http%'),
           count(*) FILTER (WHERE error_code = 'timeout')
      FROM tenantry.events WHERE service = 'helpdesk-dispatcher'
"""


# The books.


def check_books(
    connection: psycopg.Connection, ledger: Ledger, *, stored: int, handed: int
) -> Check:
    """Hold Tenantry's books against the rows: each row was either stored or handed over.

    What is handed over for the second time, for a replay, makes no second row; what was handed to a
    transaction that died with its request, none at all.
    """
    ((rows,),) = connection.execute("SELECT count(*) FROM tenantry.events").fetchall()
    taken = [each for each in ledger.webhooks if each.status == 200]
    replays = len(taken) - len({each.event_id for each in taken})
    died = sum(sum(each.at_most.values()) for each in ledger.entries if each.status is None)
    died += sum(1 for each in ledger.webhooks if each.status is None)
    missing = stored + handed - replays - rows
    claim = f"{stored} stored + {handed} handed - {replays} replays = {rows} rows"
    if missing > 0:
        claim += f" + {missing} that died with their transactions"
    return Check(claim, rows, int(not 0 <= missing <= died))


# The whole. Each query gives how much was checked, and how much of it is wrong.


def _check(connection: psycopg.Connection, claim: str, query: str) -> Check:
    ((subjects, violations),) = connection.execute(query.encode()).fetchall()
    return Check(claim, subjects, violations)


_CLAIMS: Final = (
    (
        "each conversation that the help desk has, acknowledged or not, has its one row",
        """
        SELECT count(*), count(*) FILTER (WHERE rows IS DISTINCT FROM 1 OR id IS NULL)
          FROM helpdesk.conversations
          FULL JOIN (SELECT tenant_id, data ->> 'conversationId' AS conversation, count(*) AS rows
                       FROM tenantry.events WHERE name = 'conversation_started' GROUP BY 1, 2) AS e
            ON conversation = id::text AND e.tenant_id = conversations.tenant_id
        """,
    ),
    (
        "each row of a conversation or an integration is in the tenant that owns it",
        """
        SELECT count(*), count(*) FILTER (WHERE c.id IS NULL AND i.id IS NULL)
          FROM tenantry.events AS e
          LEFT JOIN helpdesk.conversations AS c
            ON c.tenant_id = e.tenant_id AND c.id::text = data ->> 'conversationId'
          LEFT JOIN helpdesk.integrations AS i
            ON i.tenant_id = e.tenant_id AND i.id::text = data ->> 'integrationId'
         WHERE data ? 'conversationId' OR data ? 'integrationId'
        """,
    ),
    (
        "each operation that began has one end",
        """
        SELECT count(*), count(*) FILTER (WHERE ends <> 1)
          FROM (SELECT count(*) FILTER (WHERE phase <> 'started') AS ends FROM tenantry.events
                 WHERE operation_id IS NOT NULL GROUP BY operation_id) AS operations
        """,
    ),
    (
        "no id is there twice",
        """
        SELECT count(*), count(*) - count(DISTINCT id)
          FROM (SELECT id FROM tenantry.events
                UNION ALL SELECT id FROM tenantry.rejected_events) AS all_rows
        """,
    ),
    (
        "no event was refused",
        "SELECT (SELECT count(*) FROM tenantry.events), count(*) FROM tenantry.rejected_events",
    ),
)
