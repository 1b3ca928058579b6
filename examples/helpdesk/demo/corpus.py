"""The real text of this machine: what Python and its packages brought along, found and not made up.

What is found depends on the machine; on one machine it is the same each time, in the same order.
"""

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from functools import cached_property
from importlib import metadata
from pathlib import Path
from pydoc_data import topics
from typing import Final

_LARGEST: Final = 60_000
"""Characters: above, a single document would be most of the load."""

_SMALLEST: Final = 400

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_BLANK_LINE: Final = re.compile(r"\n\s*\n")
_PLAIN: Final = re.compile(r"[A-Z][\w ,;'()-]{38,180}[.!?]")
_ASKS_FOR_A_PERSON: Final = re.compile(r"\b(human|person|agent|somebody real)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """A text, and the path that it is uploaded to."""

    path: str
    text: str

    @property
    def title(self) -> str:
        """What to call it in a question."""
        return Path(self.path).stem.replace("-", " ").replace("_", " ")

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that read as such: no code, no tables, and none that asks for a person."""
        found = (
            " ".join(sentence.split())
            for paragraph in _BLANK_LINE.split(self.text)
            for sentence in _SENTENCE_END.split(paragraph.strip())
        )
        return tuple(
            sentence
            for sentence in found
            if _PLAIN.fullmatch(sentence) and not _ASKS_FOR_A_PERSON.search(sentence)
        )


def read_documents(limit: int) -> list[Document]:
    """Read up to so many documents, a like share of each kind; no text twice."""
    kinds = [_read_licenses, _read_topics, _read_packages, _read_files, _read_system]
    documents: list[Document] = []
    known: set[bytes] = set()
    for number, kind in enumerate(kinds):
        share = (limit - len(documents)) // (len(kinds) - number)
        for document in kind():
            fingerprint = hashlib.sha256(document.text.encode()).digest()
            if share == 0:
                break
            if "\0" in document.text or fingerprint in known:
                continue
            if _SMALLEST <= len(document.text) <= _LARGEST and document.sentences:
                known.add(fingerprint)
                documents.append(document)
                share -= 1
    return documents


def _read_topics() -> Iterator[Document]:
    """Give the chapters of Python's manual that ``help()`` shows."""
    for name, text in sorted(topics.topics.items()):
        yield Document(f"manual/{name}.txt", text)


def _read_packages() -> Iterator[Document]:
    """Give the descriptions of the packages that are installed."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        description = message_from_string(distribution.read_text("METADATA") or "").get_payload()
        if isinstance(description, str):
            found[distribution.name.lower()] = description
    for name, text in sorted(found.items()):
        yield Document(f"packages/{name}.md", text)


def _read_files() -> Iterator[Document]:
    """Give the text files that packages brought along."""
    root = Path(sysconfig.get_path("purelib"))
    for path in sorted(root.rglob("*")):
        if path.suffix in {".md", ".rst", ".txt"}:
            yield from _read(path, f"files/{_flatten(path, root)}")


def _read_licenses() -> Iterator[Document]:
    """Give the licences that Debian and its kin keep in one place."""
    root = Path("/usr/share/common-licenses")
    for path in sorted(root.glob("*")):
        yield from _read(path, f"licenses/{path.name.lower()}.txt")


def _read_system() -> Iterator[Document]:
    """Give what the system's packages say of themselves."""
    root = Path("/usr/share/doc")
    for path in sorted(root.glob("*/[A-Zc]*")):
        if path.suffix in {".md", ".rst", ".txt", ""}:
            name = _flatten(path, root)
            yield from _read(path, f"system/{name}" + ("" if path.suffix else ".txt"))


def _flatten(path: Path, root: Path) -> str:
    return re.sub(r"[^\w.-]", "-", "-".join(path.relative_to(root).parts)).lower()


def _read(path: Path, name: str) -> Iterator[Document]:
    try:
        if path.is_file() and path.stat().st_size <= _LARGEST:
            yield Document(name, path.read_bytes().decode())
    except (OSError, UnicodeDecodeError):
        return  # there are enough others
