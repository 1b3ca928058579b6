"""What is ingested: texts that every machine with Python has, and a folder of your own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics

TENANTS = {
    "acme": "0192f0c4-6a00-7000-8000-00000000ac3e",
    "globex": "0192f0c4-6a00-7000-8000-000000910be8",
    "initech": "0192f0c4-6a00-7000-8000-0000001417ec",
}
"""acme reads Python's manual, globex the metadata of installed packages, initech a folder."""

QUOTAS = {"acme": 72, "globex": 250, "initech": 450}
"""How many documents each tenant's plan includes."""

SUFFIXES = {".csv", ".html", ".md", ".py", ".rst", ".txt"}
MAX_BYTES = 256 * 1024


class SourceBinary(ValueError):
    """A source holds no text."""


class SourceTooLarge(ValueError):
    """A source is larger than the service takes."""


@dataclass(frozen=True)
class Source:
    """One document, and whose it is."""

    tenant: str
    source_type: str
    url: str


def list_sources(folders: list[Path], limit: int) -> list[Source]:
    """List every source, at most ``limit`` files from each folder."""
    found = [Source("acme", "manual", f"manual:{name}") for name in sorted(topics)]
    packages = {distribution.name for distribution in metadata.distributions()}
    found += [Source("globex", "package", f"package:{name}") for name in sorted(packages)]
    for folder in folders:
        found += [Source("initech", "file", str(path)) for path in find_files(folder, limit)]
    return found


def find_files(folder: Path, limit: int) -> list[Path]:
    """List files that look like text by name; a dangling link looks like one, too."""
    found: list[Path] = []
    for directory, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES:
                found.append(Path(directory, name))
                if len(found) == limit:
                    return found
    return found


def read(source_type: str, url: str) -> bytes:
    """Read a source; raises ``LookupError``, ``OSError`` or ``SourceTooLarge``."""
    if source_type == "manual":
        content = topics[url.partition(":")[2]].encode()
    elif source_type == "package":
        text = metadata.distribution(url.partition(":")[2]).read_text("METADATA")
        content = (text or "").encode()
    else:
        with Path(url).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SourceTooLarge(url)
    return content


def decode(content: bytes) -> str:
    """Decode UTF-8 text; raises ``SourceBinary`` or ``UnicodeDecodeError``."""
    if b"\0" in content[:8192]:
        raise SourceBinary
    return content.decode()
