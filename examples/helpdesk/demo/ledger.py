"""Requests to the help desk, and the books of the outside: what it was asked, and what it said.

Each request has an id of its own, which the help desk takes over as the correlation id of what it
records. No request is ever repeated: one that dies with a worker stays unanswered.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

import httpx

Kind = Literal[
    "start conversation",
    "send message",
    "import conversations",
    "upload file",
    "ingest source",
    "set integration",
    "start checkout",
    "look at activity",
]

Counts = dict[str, int]

_TIMEOUT: Final = 60.0
"""Seconds for an answer; longer than anything takes but a help desk that hangs."""


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant, as it is known from outside."""

    id: UUID
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, and which events it must have left behind: at least, and at most."""

    request_id: str
    customer: Customer
    kind: Kind
    status: int | None
    """None: no answer came."""
    at_least: Counts
    at_most: Counts
    error_code: str | None = None
    """Of an ingestion that the help desk said has failed."""
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of Stripe's: the row that it must have left, exactly once or not at all."""

    event_id: str
    customer: Customer
    name: str
    created: int
    """Seconds since the epoch."""
    status: int | None
    data: dict[str, str]
    """The payload of its row."""
    is_forged: bool = False


@dataclass(slots=True)
class Ledger:
    """All that was sent."""

    entries: list[Entry] = field(default_factory=list)
    webhooks: list[Webhook] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        statuses = [each.status for each in self.entries] + [each.status for each in self.webhooks]
        return statuses.count(None)


class Session:
    """A customer's series of requests, one after the other."""

    def __init__(
        self, client: httpx.AsyncClient, ledger: Ledger, customer: Customer, name: str
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.customer = customer
        self._name = name
        self._requests = 0

    async def call(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        messages: int = 0,
        conversations: int = 0,
        conversation_id: str | None = None,
        **options: Any,
    ) -> httpx.Response | None:
        """Send a request and enter it; None where no answer came.

        ``messages`` and ``conversations`` are how many of them the request carries.
        """
        self._requests += 1
        request_id = f"{self._name}.{self._requests}"
        headers = {"Authorization": f"Bearer {self.customer.key}", "X-Request-ID": request_id}
        response = await send(self.client, method, path, headers=headers, **options)
        most = _possible(kind, messages, conversations)
        least: Counts = {}
        answer: dict[str, Any] = {}
        if response is not None and response.status_code < 500:
            answer = response.json()
            least = _recorded(kind, response.status_code, answer)
            sampled = _sampled(kind, response.status_code, answer, messages)
            most = {**least, "message_sent": sampled} if sampled else least
        self.ledger.entries.append(
            Entry(
                request_id=request_id,
                customer=self.customer,
                kind=kind,
                status=None if response is None else response.status_code,
                at_least=least,
                at_most=most,
                error_code=answer.get("code"),
                conversation_id=conversation_id or answer.get("id"),
            )
        )
        return response


async def send(
    client: httpx.AsyncClient, method: str, path: str, **options: Any
) -> httpx.Response | None:
    """Send a request, once; None where no answer came."""
    try:
        return await client.request(method, path, timeout=_TIMEOUT, **options)
    except httpx.TransportError:
        return None


def _recorded(kind: Kind, status: int, answer: dict[str, Any]) -> Counts:
    """Say which events an answer promises."""
    match kind, status:
        case "start conversation", 201:
            return {"conversation_started": 1}
        case "send message", 200:
            return {"escalation_triggered": 1} if answer["escalated"] else {}
        case "send message", 429:
            return {"quota_exceeded": 1}
        case "import conversations", 200:
            return {"conversation_started": answer["imported"]} if answer["imported"] else {}
        case "ingest source", 201:
            return {"ingest_started": 1, "ingest_completed": 1}
        case "ingest source", 422 if "code" in answer:
            return {"ingest_started": 1, "ingest_failed": 1}
        case "ingest source", 429:
            return {"ingest_started": 1, "ingest_failed": 1, "quota_exceeded": 1}
        case "start checkout", 201:
            return {"checkout_started": 1}
        case _:
            return {}


def _sampled(kind: Kind, status: int, answer: dict[str, Any], messages: int) -> int:
    """Say how many messages an answer promises, of which sampling leaves some or none."""
    if status != 200:
        return 0
    if kind == "send message":
        return 1 if answer["escalated"] else 2
    return messages if kind == "import conversations" and answer["imported"] else 0


def _possible(kind: Kind, messages: int, conversations: int) -> Counts:
    """Say which events a request may leave that was never answered."""
    match kind:
        case "start conversation":
            return {"conversation_started": 1}
        case "send message":
            return {"message_sent": 2, "escalation_triggered": 1, "quota_exceeded": 1}
        case "import conversations":
            return {"conversation_started": conversations, "message_sent": messages}
        case "ingest source":
            names = ("ingest_started", "ingest_completed", "ingest_failed", "quota_exceeded")
            return dict.fromkeys(names, 1)
        case "start checkout":
            return {"checkout_started": 1}
        case _:
            return {}
