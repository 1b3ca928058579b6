"""Documents: read from a tenant's folder, decoded, parsed, and split into chunks.

Knows neither the network nor the database; may block, so that it runs in a thread.
"""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final, Literal

from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser, LexborNode

Kind = Literal["text", "markdown", "html"]

KINDS: Final[dict[str, Kind]] = {
    ".txt": "text",
    ".rst": "text",
    ".md": "markdown",
    ".html": "html",
    ".htm": "html",
}
"""What is taken from a folder, by suffix."""

MAX_FILES: Final = 2_000
MAX_FOLDER_BYTES: Final = 32 * 1024 * 1024
"""What one folder may hold: all of it is in memory at once."""

MAX_URL_BYTES: Final = 1_000
"""It is part of a primary key, whose entries PostgreSQL limits to a third of a page."""

CHUNK: Final = 800
MAX_CHUNK: Final = 1_600
"""Characters."""

_MAX_TAGS: Final = 40_000
"""The parser's time grows with the square of the depth; a 1 MiB page of these takes seconds."""

_ENCODINGS: Final = frozenset(
    codecs.lookup(name).name
    for name in (
        *("ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u"),
        *("big5", "gbk", "gb2312", "gb18030", "euc-jp", "euc-kr", "shift_jis", "iso2022_jp"),
        *(f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))),
        *(f"cp{page}" for page in (874, *range(1250, 1259))),
    )
)
"""Those of the web. Python knows others which are no text, or slow (punycode)."""

_SKIPPED: Final = frozenset({"script", "style", "nav", "noscript", "template", "-comment"})

_BLOCKS: Final = frozenset(
    """address article aside blockquote caption dd details div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hr li main ol p pre section summary table tr ul""".split()  # noqa: SIM905  # or forty lines
)

_BREAKS: Final = {"br": "\n", "td": " ", "th": " ", "option": " "}


class SourceError(Exception):
    """A source that cannot be ingested; Tenantry takes ``error_code`` as the event's code."""

    error_code: ClassVar[str]


class SourceMissing(SourceError):
    """There is nothing of that name."""

    error_code = "source_missing"


class SourceForbidden(SourceError):
    """The source is not the tenant's to read."""

    error_code = "source_forbidden"


class SourceUnreadable(SourceError):
    """The source refuses, for another reason."""

    error_code = "source_unreadable"


class SourceUnavailable(SourceError):
    """The source's server is away."""

    error_code = "source_unavailable"


class SourceTimeout(SourceError):
    """The source took too long."""

    error_code = "source_timeout"


class SourceTooLarge(SourceError):
    """The source is larger than allowed."""

    error_code = "source_too_large"


class SourceBinary(SourceError):
    """The source is no text."""

    error_code = "source_binary"


class SourceUndecodable(SourceError):
    """The source is not in the encoding that it claims, or in none that is known."""

    error_code = "source_undecodable"


class SourceEmpty(SourceError):
    """There is no text in the source."""

    error_code = "source_empty"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is ready to be stored."""

    url: str
    title: str
    chunks: tuple[str, ...]


# Files.


def locate(folder: Path, path: str) -> Path:
    """Give the place of ``path`` below ``folder``; raises ``SourceForbidden`` if it is not there.

    The place need not exist. ``..`` is refused even where it would stay inside.
    """
    parts = PurePosixPath(path)
    if "\0" in path or parts.is_absolute() or ".." in parts.parts:
        raise SourceForbidden(f"{path!r} leaves the folder")
    place = folder / parts
    if not _is_inside(folder, place):
        raise SourceForbidden(f"{path!r} leaves the folder")
    return place


def read_source(folder: Path, path: str, max_bytes: int) -> list[Document]:
    """Read a file, or all documents below a folder; each may have ``max_bytes``.

    Raises a ``SourceError``, for a folder as soon as one of its documents is not fit.
    """
    place = locate(folder, path)
    try:
        if not place.is_dir():
            return [_read_document(folder, place, max_bytes)]
        documents = []
        total = 0
        for found in _find_documents(folder, place):
            total += found.stat().st_size
            if total > MAX_FOLDER_BYTES:
                raise SourceTooLarge(f"{path!r} has more than {MAX_FOLDER_BYTES} bytes")
            documents.append(_read_document(folder, found, max_bytes))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissing(f"there is no file {path!r}") from None
    except PermissionError:
        raise SourceForbidden(f"{path!r} may not be read") from None
    except OSError as error:
        raise SourceUnreadable(f"{path!r} cannot be read: {error.strerror}") from error
    if not documents:
        raise SourceEmpty(f"there are no documents in {path!r}")
    return documents


def _is_inside(folder: Path, place: Path) -> bool:
    """Say whether a place is in the folder once its symbolic links are followed."""
    try:
        return place.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        # RuntimeError: links in a circle, before Python 3.13.
        raise SourceUnreadable(f"{place.name!r} cannot be found") from error


def _find_documents(folder: Path, place: Path) -> list[Path]:
    """List the documents in a folder and those below, in the order of their names."""
    found: list[Path] = []
    waiting = [place]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry))
                elif Path(entry).suffix.lower() in KINDS:
                    found.append(Path(entry))
                    if len(found) > MAX_FILES:
                        raise SourceTooLarge(
                            f"{place.name!r} has more than {MAX_FILES} documents in it"
                        )
    for document in found:
        if not _is_inside(folder, document):
            raise SourceForbidden(f"{document.name!r} leaves the folder")
    return sorted(found)


def _read_document(folder: Path, place: Path, max_bytes: int) -> Document:
    url = place.relative_to(folder).as_posix()
    try:
        size = len(url.encode())
    except UnicodeEncodeError:
        raise SourceUndecodable(f"the name {url!r} is not UTF-8") from None
    if size > MAX_URL_BYTES:
        raise SourceUnreadable(f"a path has {size} bytes, and may have {MAX_URL_BYTES}")
    if place.exists() and not place.is_file():
        raise SourceUnreadable(f"{url!r} is no file")  # a pipe: opening it would block
    with place.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise SourceTooLarge(f"{url!r} has more than {max_bytes} bytes")
    return make_document(url, raw, kind_of_name(url))


# Text.


def kind_of_name(name: str) -> Kind:
    """Give the kind that the suffix of a file's name says; text if it says none."""
    return KINDS.get(PurePosixPath(name).suffix.lower(), "text")


def kind_of_content_type(content_type: str | None, name: str) -> tuple[Kind, str | None]:
    """Give the kind and the charset of a web source; raises ``SourceBinary`` if it is no text.

    The suffix of the ``name`` decides where the type says no more than text, or is not given.
    """
    message = Message()
    message["Content-Type"] = content_type or "text/plain"
    charset = message.get_content_charset()
    match message.get_content_type():
        case "text/html" | "application/xhtml+xml":
            return "html", charset
        case "text/markdown":
            return "markdown", charset
        case "text/plain":
            return kind_of_name(name), charset
        case text if text.startswith("text/"):
            return "text", charset
        case other:
            raise SourceBinary(f"the source is {other}, which is no text")


def make_document(url: str, raw: bytes, kind: Kind, charset: str | None = None) -> Document:
    """Decode, parse and split a document; raises a ``SourceError`` if there is no text in it."""
    title, text = parse(decode(raw, charset), kind)
    chunks = tuple(split(text))
    if not chunks:
        raise SourceEmpty(f"there is no text in {url!r}")
    fallback = PurePosixPath(url).name or url
    return Document(url, (title or fallback)[:200], chunks)


def decode(raw: bytes, charset: str | None = None) -> str:
    """Decode bytes in the charset, else as UTF-8, or as UTF-16 with a byte order mark.

    Raises ``SourceBinary`` if there is a NUL, and ``SourceUndecodable``.
    """
    encoding = charset or "utf-8"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        encoding = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise SourceUndecodable(f"the encoding {encoding!r} is unknown") from None
    if encoding not in _ENCODINGS:
        raise SourceUndecodable(f"the encoding {encoding!r} is not supported")
    try:
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if b"\0" in raw and not encoding.startswith("utf-16"):
            raise SourceBinary("the source has NUL bytes in it") from error
        raise SourceUndecodable(f"the source is not {encoding}: {error.reason}") from error
    if "\0" in text:
        raise SourceBinary("the source has NUL bytes in it")
    return text


def parse(text: str, kind: Kind) -> tuple[str, str]:
    """Give a document's title, empty if it has none, and its text."""
    if kind == "text":
        return "", text
    if kind == "markdown":
        text = MarkdownIt("commonmark").enable("table").render(text)
    if sum(1 for _ in re.finditer("<[A-Za-z]", text)) > _MAX_TAGS:
        raise SourceTooLarge(f"the source has more than {_MAX_TAGS} HTML tags")
    tree = LexborHTMLParser(text)
    title = ""
    for node in (tree.css_first("title"), tree.css_first("h1")):
        if node is not None and not title:
            title = " ".join(_text_of(node).split())
    return title, "" if tree.body is None else _text_of(tree.body)


def _text_of(element: LexborNode) -> str:
    """Give the text of an element, a blank line around each block in it."""
    parts: list[str] = []
    waiting: list[LexborNode | str] = [element]  # no recursion: pages nest as deep as they like
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            parts.append(node)
        elif node.tag == "-text":
            parts.append(node.text_content or "")
        elif node.tag not in _SKIPPED:
            edge = "\n\n" if node.tag in _BLOCKS else _BREAKS.get(node.tag or "", "")
            waiting += [edge, *reversed([*node.iter(include_text=True)]), edge]
    lines = (" ".join(line.split()) for line in "".join(parts).splitlines())
    return "\n".join(lines)


def split(text: str) -> Iterator[str]:
    """Split text at its paragraphs, into chunks of about 800 characters, and at most 1,600.

    Nothing is lost but whitespace.
    """
    chunk = ""
    for piece in _pieces(text):
        # A heading stays with what it is the heading of.
        room = CHUNK if len(chunk) > 100 else MAX_CHUNK
        if chunk and len(chunk) + 2 + len(piece) > room:
            yield chunk
            chunk = ""
        chunk = f"{chunk}\n\n{piece}" if chunk else piece
    if chunk:
        yield chunk


def _pieces(text: str) -> Iterator[str]:
    """Give the paragraphs, in parts where they are longer than a chunk."""
    for paragraph in re.split(r"\n[^\S\n]*\n", "\n".join(text.splitlines())):
        start = 0
        while start < len(paragraph):
            part = paragraph[start : start + MAX_CHUNK]
            if start + MAX_CHUNK < len(paragraph):
                part = part[: _last_break(part)]
            start += len(part)
            if part.strip():
                yield part.strip()


def _last_break(part: str) -> int:
    """Give where the last line, sentence or word ends, if that is not too early; else the end."""
    for mark in ("\n", ". ", " "):
        found = part.rfind(mark, CHUNK)
        if found >= 0:
            return found + len(mark)
    return len(part)
