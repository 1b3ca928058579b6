"""The files of a journal: whose they are, directories, locks, and room on the disk.

Whoever could replace a file of a journal could read events or forge them. So a root is used only
where no other user but root can put something in its place, what is made is its user's alone, and
what belongs to somebody else, is a link or no regular file is neither read nor written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

PAGE: Final = 4096


def local_process() -> str:
    """Name this process: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


class ForeignFile(OSError):
    """A file or directory is not its user's alone; it is neither read nor written."""

    def __init__(self, problem: str) -> None:
        """Keep the problem as the text."""
        super().__init__(errno.EPERM, problem)

    def __str__(self) -> str:
        """Give the text alone."""
        return str(self.strerror)


def problems_of(root: Path) -> list[str]:
    """Say, with the remedy, what makes a directory unsafe for journals, and what in it is foreign.

    Empty where all is well, or nothing is there yet. Opens no file. Raises ``OSError`` where the
    directory cannot be looked at.
    """
    real = Path(os.path.realpath(root))
    found = _problems_above(real)
    with suppress(FileNotFoundError):
        problem = problem_of(real)
        if problem is not None:
            return [*found, problem]
        found += [p for entry in journal_directories(real) if (p := problem_of(entry)) is not None]
    return found


def problem_of(directory: Path) -> str | None:
    """Say, with the remedy, why a directory is not its user's alone; None where it is.

    That others can list it is none: what lies in it cannot be read by them.
    """
    return _problem(directory, directory.lstat(), is_directory=True)


def refuse_foreign(directory: Path) -> None:
    """Raise ``ForeignFile`` for a directory that is not its user's alone."""
    if (problem := problem_of(directory)) is not None:
        raise ForeignFile(problem)


def _problem(path: Path, status: os.stat_result, *, is_directory: bool) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"{str(path)!r} is a link, and links are not followed here: remove it"
    if is_directory and not stat.S_ISDIR(status.st_mode):
        return f"{str(path)!r} is no directory: remove it"
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return f"{str(path)!r} is no regular file: remove it"
    if status.st_uid != os.geteuid():
        return (
            f"{str(path)!r} belongs to user {status.st_uid}, and this process runs as user "
            f"{os.geteuid()}: run it as that user, or change the owner"
        )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return (
            f"{str(path)!r} may be written to by others (mode {mode:04o}): run "
            f"`chmod go-w {path}`, and look at what is in it"
        )
    if not is_directory and status.st_nlink > 1:
        return f"{str(path)!r} has {status.st_nlink} names (hard links): remove the others"
    return None


def _problems_above(real: Path) -> list[str]:
    found: list[str] = []
    for parent in real.parents:
        try:
            status = parent.stat()
        except FileNotFoundError:
            continue
        replaced = "who could put another directory in the place of the journal's"
        if status.st_uid not in {0, os.geteuid()}:
            found.append(
                f"{str(parent)!r}, which is above it, belongs to user {status.st_uid}, {replaced}: "
                "choose a directory below those of root and of this process's user"
            )
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            found.append(
                f"{str(parent)!r}, which is above it, may be written to by everybody, {replaced}: "
                f"run `chmod o-w {parent}`, or `chmod +t {parent}`"
            )
    return found


def make_root(root: Path) -> Path:
    """Make the directory for journals where there is none; gives its real path.

    What is made is its user's alone, whatever the umask; an empty directory of that user is made
    so. One with something in it is never changed. Raises ``ForeignFile`` where it is not safe (see
    ``problems_of``), and other ``OSError``.
    """
    real = Path(os.path.realpath(root))
    for problem in _problems_above(real):
        raise ForeignFile(problem)
    make_private(real)
    status = real.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077 and not any(real.iterdir()):
        real.chmod(status.st_mode & stat.S_IRWXU)
    refuse_foreign(real)
    return real


def make_private(directory: Path) -> None:
    """Make a directory, and those above it, unless they are there."""
    if os.path.lexists(directory):
        return
    make_private(directory.parent)
    with suppress(FileExistsError):  # another process was faster
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)  # the umask took away more


def open_file(path: Path, flags: int) -> int:
    """Open a file of a journal, or make it (``O_CREAT | O_EXCL``); never waits, follows no link.

    Raises ``ForeignFile`` for what is not its user's alone, and other ``OSError``.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ForeignFile(f"{str(path)!r} is a link, and links are not followed here") from None
        raise
    try:
        if flags & os.O_CREAT:
            os.fchmod(fd, 0o600)  # the umask took away more
        problem = _problem(path, os.fstat(fd), is_directory=False)
    except BaseException:
        os.close(fd)
        raise
    if problem is not None:
        os.close(fd)
        raise ForeignFile(problem)
    return fd


def journal_directories(root: Path) -> list[Path]:
    """List the journals of a root, oldest first (ids are UUIDv7); ``problem_of`` knows the foreign.

    One whose name begins with a dot is being made: its process does not hold its locks yet.
    """
    try:
        return sorted(
            entry for entry in root.iterdir() if _ID.fullmatch(entry.name) and _is_journal(entry)
        )
    except FileNotFoundError:
        return []


def _is_journal(directory: Path) -> bool:
    with suppress(OSError):  # it is gone
        return problem_of(directory) is not None or os.path.lexists(directory / "owner.lock")
    return False


_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def remove_unfinished(root: Path, *, older_than: float = 60.0) -> None:
    """Remove what processes left that were killed while they made a journal.

    It holds no line yet. ``older_than`` is in seconds: whoever is making one now is left alone.
    """
    with suppress(OSError):
        for entry in root.iterdir():
            is_old = time.time() - entry.lstat().st_mtime > older_than
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
    fd = open_file(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0))
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

    What cannot be removed stays: the next process finds it settled, and tries again. What is
    foreign stays as well.
    """
    with suppress(OSError):
        if problem_of(directory) is not None:
            return
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
        path = root / _CROWDED
        with suppress(FileExistsError):
            os.close(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.utime(path, follow_symlinks=False)


def is_room_asked_for(root: Path) -> bool:
    """Say whether somebody asked lately."""
    with suppress(OSError):
        return time.time() - (root / _CROWDED).lstat().st_mtime < _CROWDED_FOR
    return False


_CROWDED: Final = ".crowded"
_CROWDED_FOR: Final = 10.0
"""Seconds for which a request for room holds."""


def ask_to_turn_over(directory: Path) -> None:
    """Ask the process that writes a journal to go on in a fresh segment."""
    with suppress(OSError):  # its process may be removing it
        os.close(open_file(directory / _TURN_OVER, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def is_turn_over_asked_for(directory: Path) -> bool:
    """Say whether somebody asked since the last time that it was done."""
    return os.path.lexists(f"{directory}/{_TURN_OVER}")  # cheaper than a path: it is asked often


def note_turn_over(directory: Path) -> None:
    """Take the request away: it is done."""
    with suppress(OSError):
        (directory / _TURN_OVER).unlink()


_TURN_OVER: Final = "turn-over"
