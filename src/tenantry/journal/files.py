"""The files of a journal: directories, locks, and room on the disk."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

PAGE: Final = 4096


def local_process() -> str:
    """Name this process: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


def journal_directories(root: Path) -> list[Path]:
    """List the journals of a root, oldest first (ids are UUIDv7).

    One whose name begins with a dot is being made: its process does not hold its locks yet.
    """
    try:
        return sorted(
            entry for entry in root.iterdir() if _ID.fullmatch(entry.name) and _is_journal(entry)
        )
    except FileNotFoundError:
        return []


def _is_journal(directory: Path) -> bool:
    with suppress(OSError):  # another user's is not ours
        return (directory / "owner.lock").exists()
    return False


_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def remove_unfinished(root: Path, *, older_than: float = 60.0) -> None:
    """Remove what processes left that were killed while they made a journal.

    It holds no line yet. ``older_than`` is in seconds: whoever is making one now is left alone.
    """
    with suppress(OSError):
        for entry in root.iterdir():
            is_old = time.time() - entry.stat().st_mtime > older_than
            if is_old and entry.name[0] == "." and _ID.fullmatch(entry.name[1:]):
                remove_directory(entry)


def preallocate(fd: int, size: int) -> None:
    """Give a file its blocks now, so that a full disk is an error here and never a SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:  # macOS, for development
        os.write(fd, bytes(size))
        os.lseek(fd, 0, os.SEEK_SET)


def try_lock(path: Path, *, create: bool) -> int | None:
    """Lock a file without waiting; the descriptor, or None when it is locked or was removed."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd


def remove_directory(directory: Path) -> None:
    """Remove a journal; its lock files last, so that nobody adopts half of it.

    What cannot be removed stays: the next process finds it settled, and tries again.
    """
    with suppress(OSError):
        entries = sorted(directory.iterdir(), key=lambda path: path.name.endswith(".lock"))
        for path in entries:
            path.unlink(missing_ok=True)
        directory.rmdir()


def directory_bytes(root: Path, settled: str) -> tuple[int, int]:
    """Count the bytes of a root's journals: in files of the suffix ``settled``, and in others."""
    counts = {True: 0, False: 0}
    with suppress(FileNotFoundError), os.scandir(root) as journals:
        for journal in journals:
            if journal.is_dir(follow_symlinks=False):
                for name, size in _file_sizes(journal.path):
                    counts[name.endswith(settled)] += size
    return counts[True], counts[False]


def _file_sizes(directory: str) -> Iterator[tuple[str, int]]:
    with suppress(OSError), os.scandir(directory) as entries:  # removed, or another user's
        for entry in entries:
            with suppress(OSError):  # a spare segment was renamed, or one removed
                yield entry.name, entry.stat(follow_symlinks=False).st_size


def ask_for_room(root: Path) -> None:
    """Ask all processes that share a root to give up what they keep beyond need."""
    with suppress(OSError):
        (root / _CROWDED).touch(mode=0o600)


def is_room_asked_for(root: Path) -> bool:
    """Say whether somebody asked lately."""
    with suppress(OSError):
        return time.time() - (root / _CROWDED).stat().st_mtime < _CROWDED_FOR
    return False


_CROWDED: Final = ".crowded"
_CROWDED_FOR: Final = 10.0
"""Seconds for which a request for room holds."""
