"""Who the tenants are, and what each of them is going to do: the same for the same seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final

import httpx

from helpdesk.demo.corpus import Document
from helpdesk.demo.ledger import Customer
from helpdesk.demo.load import (
    BIG_FOLDER,
    Action,
    Job,
    converse,
    import_past,
    ingest,
    integrate,
    look,
    upload,
)
from helpdesk.demo.payments import Stripe, Then, check_out
from helpdesk.demo.world import MODULES

DAYS: Final = 14
"""How far back the imported conversations go."""

_BATCH: Final = 50
"""Conversations in one import."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A tenant: how large it is, and what its endpoints are like."""

    name: str
    plan: str
    share: float
    """Of the load."""
    documents: int
    integrations: dict[str, str]
    """The endpoint of each type of integration."""


PROFILES: Final = (
    Profile("Halvorsen Logistics", "business", 0.59, 200, {"webhook": "ok", "slack": "flaky"}),
    Profile("Brightwater Clinics", "business", 0.25, 100, {"crm": "ok", "webhook": "broken"}),
    Profile("Pine & Arrow Outfitters", "team", 0.10, 40, {"slack": "gone", "webhook": "ok"}),
    Profile("Kestrel Bicycles", "free", 0.05, 24, {"webhook": "slow"}),
    Profile("Tessellate Studio", "free", 0.01, 24, {}),
)

_PERSON: Final = (
    "Can I talk to a human, please?",
    "I want to speak with a real person about my invoice.",
    "This does not help. Give me an agent!",
)

_BAD_FILES: Final[dict[str, bytes]] = {
    "inbox/scan.txt": b"%PDF-1.7\0\0\0\0",
    "inbox/minutes.txt": "Geschäftsführung, Prüfungsbericht".encode("latin-1"),
    "inbox/export.txt": b"id;amount;currency\n" * 60_000,
    "inbox/blank.md": b"\n\n\n",
}
"""Uploaded like any others; none of them can be ingested."""

_BAD_SOURCES: Final = (
    *(("file", name) for name in _BAD_FILES),
    ("file", "inbox/lost.txt"),
    ("file", "../secrets.txt"),
    *(
        ("web", name)
        for name in (
            *("missing", "forbidden", "broken", "large", "image.png", "latin1.txt", "empty"),
            *("slow", "missing", "missing"),
        )
    ),
    ("web", "http://127.0.0.1:9/"),
)


class Plan:
    """What is sent, from the seed and the documents alone."""

    def __init__(
        self,
        seed: int,
        customers: Sequence[Customer],
        documents: Sequence[Document],
        *,
        conversations: int,
        world: httpx.AsyncClient,
        stripe: Stripe,
    ) -> None:
        self._random = Random(seed)
        self._conversations = conversations
        self._world = world
        self._stripe = stripe
        self._documents = {
            profile.name: self._random.sample(documents, min(profile.documents, len(documents)))
            for profile in PROFILES
        }
        self._customers = list(zip(PROFILES, customers, strict=True))
        self._jobs = 0

    def prepare(self) -> list[Job]:
        """Set integrations, upload documents, and ingest the first folders."""
        jobs = []
        for profile, customer in self._customers:
            for kind, endpoint in profile.integrations.items():
                url = f"{self._world.base_url}/hooks/{endpoint}"
                jobs.append(self._job(customer, partial(integrate, kind=kind, url=url)))
            uploads = {
                f"{BIG_FOLDER}/{document.path}": document.text.encode()
                for document in self._documents[profile.name]
            }
            for path, body in {**uploads, **_BAD_FILES}.items():
                jobs.append(self._job(customer, partial(upload, path=path, body=body)))
        return jobs

    def begin(self) -> list[Job]:
        """Ingest the first folders, so that there is something to ask about."""
        return [
            self._job(customer, partial(ingest, source_type="file", url=f"{BIG_FOLDER}/{folder}"))
            for _, customer in self._customers
            for folder in ("manual", "packages")
        ]

    def go_on(self) -> list[Job]:
        """Everything else, mixed; what is paid comes after what made one pay."""
        jobs = []
        for profile, customer in self._customers:
            actions = [
                *self._conversations_of(profile),
                *self._ingestions_of(profile),
                *self._imports_of(profile),
            ]
            self._random.shuffle(actions)
            jobs += [(self._random.random(), customer, action) for action in actions]
            for number, checkout in enumerate(self._checkouts_of(profile)):
                jobs.append((0.7 + 0.15 * number, customer, checkout))
        return [self._job(customer, action) for _, customer, action in sorted(jobs, key=_moment)]

    def _job(self, customer: Customer, action: Action) -> Job:
        self._jobs += 1
        return Job(customer, f"job-{self._jobs}", action)

    # Conversations.

    def _conversations_of(self, profile: Profile) -> Iterator[Action]:
        for _ in range(max(3, round(self._conversations * profile.share))):
            count = self._random.choices((1, 2, 3, 5), (35, 35, 20, 10))[0]
            yield partial(converse, texts=[self._question(profile) for _ in range(count)])
        for _ in range(2):
            yield look

    def _question(self, profile: Profile) -> str:
        document, other = self._random.sample(self._documents[profile.name], 2)
        kind = self._random.random()
        sentence = self._random.choice(document.sentences)
        if kind < 0.80:
            return f"Is it true? {sentence}"
        if kind < 0.88:
            return f"What is {document.title}?"
        if kind < 0.93:  # half of one thing and half of another
            words = self._random.choice(other.sentences).split()
            return " ".join([*sentence.split()[:5], *words[:5]]) + "?"
        if kind < 0.97:
            letters = "".join(self._random.choices("bdfgklmnprstvxz", k=24))
            return f"{letters[:7]} {letters[7:15]} {letters[15:]}?"
        return self._random.choice(_PERSON)

    def _imports_of(self, profile: Profile) -> Iterator[Action]:
        """Give what another help desk has, in batches; the first of them is sent twice."""
        count = max(8, round(1.5 * self._conversations * profile.share))
        past = [self._past(profile, number) for number in range(count)]
        batches = [past[start : start + _BATCH] for start in range(0, count, _BATCH)]
        for batch in [*batches, batches[0]]:
            yield partial(import_past, conversations=batch)

    def _past(self, profile: Profile, number: int) -> dict[str, Any]:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        # More of them by day than by night, and more from day to day.
        day = DAYS - round(DAYS * self._random.random() ** 0.7)
        started_at = today - timedelta(days=max(1, day))
        started_at += timedelta(hours=self._random.gauss(13, 3) % 24)
        document = self._random.choice(self._documents[profile.name])
        messages = []
        for sentence in self._random.sample(document.sentences, min(2, len(document.sentences))):
            messages.append({"role": "user", "text": f"Is it true? {sentence}"})
            messages.append({"role": "assistant", "text": "Yes."})
        return {
            "external_id": f"ticket-{number}",  # each tenant counts from 0
            "session_id": f"visitor-{number % 97}",
            "started_at": started_at.isoformat(),
            "messages": messages[: self._random.choice((1, 2, 3, 4))],
        }

    # Sources.

    def _ingestions_of(self, profile: Profile) -> Iterator[Action]:
        for document in self._documents[profile.name]:
            if not document.path.startswith(("manual/", "packages/")):
                yield partial(ingest, source_type="file", url=f"{BIG_FOLDER}/{document.path}")
        for module in self._random.sample(MODULES, max(2, round(45 * profile.share))):
            yield partial(
                ingest, source_type="web", url=f"{self._world.base_url}/site/{module}.html"
            )
        bad = [*_BAD_SOURCES] if profile.share > 0.5 else self._random.sample(_BAD_SOURCES, 3)
        for source_type, name in bad:
            is_path = source_type == "web" and "://" not in name
            url = f"{self._world.base_url}/site/{name}" if is_path else name
            yield partial(ingest, source_type=source_type, url=url)

    # Payments.

    def _checkouts_of(self, profile: Profile) -> Iterator[Action]:
        stripe, paid = self._stripe, profile.plan
        forger = replace(stripe, secret="whsec_guessed", is_forger=True)  # noqa: S106  # nobody's
        match profile.name.split()[0]:
            case "Halvorsen":
                yield self._checkout(paid, [stripe.completes(times=2)])
                yield self._checkout(paid)
            case "Brightwater":  # whose card expires
                yield self._checkout(
                    paid,
                    [
                        stripe.completes(),
                        stripe.updates(paid, paid, "active"),
                        stripe.updates(paid, paid, "past_due", times=2),
                    ],
                )
            case "Pine":  # which does not stay
                yield self._checkout(
                    paid,
                    [
                        stripe.completes(),
                        stripe.updates(paid, paid, "active"),
                        stripe.updates(paid, paid, "canceled"),
                    ],
                )
            case "Kestrel":  # which has reached its quota by then
                yield self._checkout("team")
                yield self._checkout(
                    "team",
                    [
                        stripe.completes(times=3),
                        stripe.updates("free", "team", "active", times=2),
                    ],
                )
            case _:
                yield self._checkout("business")
                yield self._checkout("team", [forger.completes()])

    def _checkout(self, plan: str, then: Sequence[Then] = ()) -> Action:
        return partial(check_out, world=self._world, plan=plan, then=then)


def _moment(job: tuple[float, Customer, Action]) -> float:
    return job[0]
