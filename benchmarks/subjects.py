"""What Tenantry costs the caller, and the floors. ``python -m benchmarks.subjects NAME BURSTS``.

The attributes are the same for Tenantry and for what it is compared with (``peers``): tenant,
actor, operation, phase, duration, two keys of the arguments, two of the result.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import wrapt

from benchmarks.peers import tracer_provider
from benchmarks.subject import (
    ACTOR,
    REPORT,
    SUSTAINED,
    TENANT,
    URL,
    Report,
    Subject,
    busy_threads,
    ingest,
    main,
)

if TYPE_CHECKING:
    from tenantry import Pipeline
    from tenantry.exporters import Batch, Outcome

# Floors.


@contextmanager
def plain() -> Iterator[Subject]:
    yield Subject(lambda: ingest("web", URL))


@contextmanager
def wrapt_only() -> Iterator[Subject]:
    def forward(
        wrapped: Callable[..., Report],
        _instance: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Report:
        return wrapped(*args, **kwargs)

    wrapped = wrapt.FunctionWrapper(ingest, forward)
    yield Subject(lambda: wrapped("web", URL))


# Tenantry.


class NullExporter:
    """Takes what the shipper read, and forgets it."""

    def export(self, batch: Batch, deadline: float) -> Outcome:  # noqa: ARG002
        from tenantry.exporters import Outcome  # noqa: PLC0415  # not where nothing is exported

        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self) -> None:
        pass


class AwayExporter(NullExporter):
    """Takes nothing for as long as it is away: what is emitted stays in the journal."""

    is_away = True

    def export(self, batch: Batch, deadline: float) -> Outcome:
        from tenantry.exporters import Outcome, Retry  # noqa: PLC0415

        if not self.is_away:
            return super().export(batch, deadline)
        return Outcome(retry=Retry("backoff", "nothing is taken here"))


@contextmanager
def running(
    taxonomy: Any = "tenantry.taxonomies.saas",
    *,
    exporter: NullExporter | None = None,
    **options: Any,
) -> Iterator[Pipeline]:
    """Run a pipeline with a journal on disk, in a tenant's scope."""
    import tenantry  # noqa: PLC0415  # not where it is not measured

    with (
        tempfile.TemporaryDirectory(prefix="tenantry-bench-") as directory,
        tenantry.Pipeline(
            exporter=exporter or NullExporter(),
            taxonomy=taxonomy,
            journal=directory,
            service="benchmark",
            environment="test",
            shutdown_timeout=10.0,
            **options,
        ) as pipeline,
        tenantry.tenant(TENANT, actor=ACTOR),
    ):
        yield pipeline


@contextmanager
def pipeline_in_scope(
    taxonomy: Any = "tenantry.taxonomies.saas", **options: Any
) -> Iterator[Callable[[Callable[[], object]], Subject]]:
    """Run a pipeline that stores everything; yields how to make a subject."""
    with running(taxonomy, **options) as pipeline:
        yield lambda call: Subject(
            call, pipeline.flush, lambda: sum(pipeline.stats().dropped.values())
        )
        report = pipeline.shutdown(timeout=10.0)
        if not report.settled or report.rejected:
            raise RuntimeError(f"what was measured did not work: {report}")


def silence() -> None:
    """Keep back the warning that is said once of what is measured here."""
    logging.getLogger("tenantry").setLevel(logging.CRITICAL)


@contextmanager
def unconfigured() -> Iterator[Subject]:
    """Without a pipeline: a library's functions, where the application does not use Tenantry."""
    from tenantry import emits, tenant  # noqa: PLC0415

    silence()
    recorded = emits("ingest")(ingest)
    with tenant(TENANT, actor=ACTOR):
        yield Subject(lambda: recorded("web", URL))


@contextmanager
def left_out() -> Iterator[Subject]:
    """Disabled: the taxonomy has none of the operation's events."""
    from tenantry import emits  # noqa: PLC0415

    silence()
    recorded = emits("digest")(ingest)
    with running() as pipeline:
        yield Subject(lambda: recorded("web", URL))
        if pipeline.stats().emitted:
            raise RuntimeError(f"what was left out was emitted: {pipeline.stats()}")


@contextmanager
def sampled_out() -> Iterator[Subject]:
    from tenantry import Sampling, emits  # noqa: PLC0415

    recorded = emits("ingest")(ingest)
    with running(sampling={"ingest": Sampling(1e-15)}) as pipeline:
        yield Subject(lambda: recorded("web", URL))
        if pipeline.stats().accepted:
            raise RuntimeError(f"what was to be sampled out was accepted: {pipeline.stats()}")


@contextmanager
def fact_sampled_out() -> Iterator[Subject]:
    from tenantry import Sampling, log_event  # noqa: PLC0415

    with running(sampling={"quota_exceeded": Sampling(1e-15)}) as pipeline:
        yield Subject(
            lambda: log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        )
        if pipeline.stats().accepted:
            raise RuntimeError(f"what was to be sampled out was accepted: {pipeline.stats()}")


@contextmanager
def full() -> Iterator[Subject]:
    """The smallest journal, full, of which nothing is shipped: each event is dropped, counted."""
    from tenantry import emits, log_event  # noqa: PLC0415

    silence()
    recorded = emits("ingest")(ingest)
    exporter = AwayExporter()
    with running(exporter=exporter, journal_max_bytes=4 * 1024 * 1024) as pipeline:
        # With facts, whose lines are shorter: an operation that began would wait for its end.
        while not pipeline.stats().dropped:
            for _ in range(100):
                log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        accepted = pipeline.stats().accepted
        yield Subject(lambda: recorded("web", URL))
        if pipeline.stats().accepted > accepted + 100:
            raise RuntimeError(f"the journal was not full: {pipeline.stats()}")
        exporter.is_away = False
        pipeline.flush(10)
        log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        pipeline.flush(10)


@contextmanager
def decorated() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        recorded = emits("ingest")(ingest)
        yield subject(lambda: recorded("web", URL))


@contextmanager
def decorated_sustained() -> Iterator[Subject]:
    with decorated() as subject:
        subject.bursts_without_pause = SUSTAINED
        yield subject


@contextmanager
def decorated_busy() -> Iterator[Subject]:
    with decorated() as subject, busy_threads():
        yield subject


@contextmanager
def decorated_in_span() -> Iterator[Subject]:
    with (
        tracer_provider() as (provider, _),
        provider.get_tracer("benchmark").start_as_current_span("request"),
        decorated() as subject,
    ):
        yield subject


@contextmanager
def decorated_async() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    @emits("ingest")
    async def recorded(source_type: str, url: str) -> Report:  # noqa: ARG001
        return REPORT

    with pipeline_in_scope() as subject:
        made = subject(lambda: recorded("web", URL))
        made.runs_in_loop = True
        yield made


@contextmanager
def decorated_method() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    class Desk:
        @emits("ingest")
        def ingest(self, source_type: str, url: str) -> Report:  # noqa: ARG002
            return REPORT

    desk = Desk()
    with pipeline_in_scope() as subject:
        yield subject(lambda: desk.ingest("web", URL))


@contextmanager
def returned_coroutine() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    async def body() -> Report:
        return REPORT

    @emits("ingest")
    def recorded(source_type: str, url: str) -> Coroutine[Any, Any, Report]:  # noqa: ARG001
        return body()

    with pipeline_in_scope() as subject:
        made = subject(lambda: recorded("web", URL))
        made.runs_in_loop = True
        yield made


def one_item(source_type: str, url: str) -> Generator[str, None, Report]:  # noqa: ARG001
    yield "item"
    return REPORT


def all_items(source_type: str, url: str) -> Generator[str]:  # noqa: ARG001
    while True:
        yield "item"


async def one_item_later(source_type: str, url: str) -> AsyncGenerator[str]:  # noqa: ARG001
    yield "item"


async def all_items_later(source_type: str, url: str) -> AsyncGenerator[str]:  # noqa: ARG001
    while True:
        yield "item"


@contextmanager
def generator() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    recorded = emits("ingest")(one_item)
    with pipeline_in_scope() as subject:
        yield subject(lambda: list(recorded("web", URL)))


@contextmanager
def generator_item() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        items = emits("ingest", docs=0, chunks=0)(all_items)("web", URL)
        yield subject(items.__next__)
        items.close()


@contextmanager
def plain_item() -> Iterator[Subject]:
    yield Subject(all_items("web", URL).__next__)


@contextmanager
def async_generator() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    recorded = emits("ingest", docs=0, chunks=0)(one_item_later)

    async def call() -> None:
        async for _ in recorded("web", URL):
            pass

    with pipeline_in_scope() as subject:
        made = subject(call)
        made.runs_in_loop = True
        yield made


@contextmanager
def async_generator_item() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        recorded = emits("ingest", docs=0, chunks=0)(all_items_later)
        made = subject(lambda: None)
        # A loop closes its generators when it ends, and each burst has a loop of its own.
        made.call_in_loop = lambda: recorded("web", URL).__anext__
        yield made


@contextmanager
def plain_async_item() -> Iterator[Subject]:
    yield Subject(lambda: None, call_in_loop=lambda: all_items_later("web", URL).__anext__)


@contextmanager
def block() -> Iterator[Subject]:
    from tenantry import emits  # noqa: PLC0415

    def call() -> None:
        with emits("ingest", source_type="web", url=URL) as operation:
            operation.set(docs=3, chunks=41)

    with pipeline_in_scope() as subject:
        yield subject(call)


@contextmanager
def fact() -> Iterator[Subject]:
    from tenantry import log_event  # noqa: PLC0415
    from tenantry.taxonomies.saas import QuotaExceeded  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        yield subject(
            lambda: log_event(QuotaExceeded(quota_type="messages", limit=100, attempted=101))
        )


@contextmanager
def fact_by_name() -> Iterator[Subject]:
    from tenantry import log_event  # noqa: PLC0415

    with pipeline_in_scope() as subject:
        yield subject(
            lambda: log_event("quota_exceeded", quota_type="messages", limit=100, attempted=101)
        )


SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    each.__name__: each
    for each in (
        plain,
        wrapt_only,
        unconfigured,
        left_out,
        sampled_out,
        fact_sampled_out,
        full,
        decorated,
        decorated_sustained,
        decorated_busy,
        decorated_in_span,
        decorated_async,
        decorated_method,
        returned_coroutine,
        generator,
        plain_item,
        generator_item,
        async_generator,
        plain_async_item,
        async_generator_item,
        block,
        fact,
        fact_by_name,
    )
}


if __name__ == "__main__":
    main(SUBJECTS)
