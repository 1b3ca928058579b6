"""Ingest in one process: ``python examples/ingestion --dsn embedded FOLDER``."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ingestion import Quota, ingest, notify
from sources import TENANTS, Source, list_sources

import tenantry
from tenantry import tenant


def process(source: Source, quota: Quota, actor: str) -> bool:
    """Ingest one source for its tenant; says whether it succeeded."""
    with tenant(TENANTS[source.tenant], actor=actor):
        if not quota.allows(source):
            return False
        try:
            ingest(source.source_type, source.url)
            notify(f"search-{source.tenant}", source.url)
        except (LookupError, OSError, RuntimeError, ValueError):
            return False  # it is recorded: ingest_failed or integration_failed, with a code
        return True


def main() -> int:
    options = read_options()
    tenantry.configure(
        dsn=options.dsn,
        schema=options.schema,
        service="demo",
        environment=options.environment,
        taxonomy="tenantry.taxonomies.saas",
        journal=options.journal,
    )
    sources = list_sources(options.folders, options.limit)[options.worker :: options.workers]
    quota = Quota(share=options.workers)
    name = f"worker {options.worker}"
    deadline = time.monotonic() + options.repeat_for
    ingested = failed = 0
    with ThreadPoolExecutor(options.threads) as pool:
        while True:
            for succeeded in pool.map(lambda each: process(each, quota, name), sources):
                ingested += succeeded
                failed += not succeeded
                if (ingested + failed) % 50 == 0:
                    print(f"{name}: {ingested} ingested, {failed} failed", flush=True)
            if time.monotonic() >= deadline:
                break
    report = tenantry.shutdown(timeout=30)
    if not report:
        print(f"{name}: {report.pending} events kept for later: {report.error}", file=sys.stderr)
        return 1
    print(f"{name}: {ingested} ingested, {failed} failed; all events stored", flush=True)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ingestion", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders to read")
    parser.add_argument("--dsn", help="PostgreSQL, or 'embedded'; else TENANTRY_DSN")
    parser.add_argument("--schema", default="tenantry", help="schema of Tenantry's tables")
    parser.add_argument("--journal", help="directory of the journals")
    parser.add_argument("--environment", default="demo", help="stored with each event")
    parser.add_argument("--limit", type=int, default=500, help="files read from one folder")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--worker", type=int, default=0, help="number of this process")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the sources")
    parser.add_argument(
        "--repeat-for", type=float, default=0, help="read everything again for so many seconds"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
