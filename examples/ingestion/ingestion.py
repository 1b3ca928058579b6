"""The service's own functions. What Tenantry records is in the decorators and in ``log_event``."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from zlib import crc32

from sources import QUOTAS, Source, SourceBinary, SourceTooLarge, decode, read

from tenantry import emits, log_event
from tenantry.taxonomies.saas import QuotaExceeded

CHUNK_CHARACTERS = 800


@dataclass(frozen=True)
class Ingested:
    """The result of one ingestion; ``docs`` and ``chunks`` are declared keys, ``texts`` is not."""

    docs: int
    chunks: int
    texts: list[str]


@emits(
    "ingest",
    errors={
        FileNotFoundError: "source_missing",
        PermissionError: "source_forbidden",
        LookupError: "source_missing",
        SourceBinary: "source_binary",
        SourceTooLarge: "source_too_large",
        UnicodeDecodeError: "source_undecodable",
    },
)
def ingest(source_type: str, url: str) -> Ingested:
    """Read, decode and split one source."""
    texts = split(decode(read(source_type, url)))
    return Ingested(docs=1, chunks=len(texts), texts=texts)


def split(text: str) -> list[str]:
    """Split a text at blank lines into chunks of some 800 characters."""
    chunks: list[str] = []
    chunk = ""
    for paragraph in text.split("\n\n"):
        if chunk and len(chunk) + len(paragraph) > CHUNK_CHARACTERS:
            chunks.append(chunk)
            chunk = ""
        chunk += f"{paragraph}\n\n"
    if chunk.strip():
        chunks.append(chunk)
    return chunks


class SearchIndexBusy(RuntimeError):
    """The tenant's search index takes nothing now."""

    error_code = "index_busy"


@emits("integration", type="search")
def notify(integration_id: str, url: str) -> None:
    """Tell the tenant's search index of a document; one call in forty finds it busy."""
    if crc32(f"{integration_id} {url}".encode()) % 40 == 0:
        raise SearchIndexBusy(url)


class Quota:
    """How many documents a tenant may have; a document that it has already is free.

    Each process enforces its share of what the plan includes.
    """

    def __init__(self, share: int) -> None:
        self._limits = {name: quota // share for name, quota in QUOTAS.items()}
        self._lock = threading.Lock()
        self._documents: dict[str, set[str]] = defaultdict(set)

    def allows(self, source: Source) -> bool:
        """Count a document, or record that it is one too many."""
        limit = self._limits[source.tenant]
        with self._lock:
            documents = self._documents[source.tenant]
            if source.url in documents or len(documents) < limit:
                documents.add(source.url)
                return True
        log_event(QuotaExceeded(quota_type="documents", limit=limit, attempted=limit + 1))
        return False
