"""Claims: the directory of a journal that lives, and the locks that say so."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from tenantry.journal.books import map_books
from tenantry.journal.files import make_private, make_root, remove_directory, try_lock


class Claim:
    """Both locks of one directory; empty in memory mode."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._locks: list[int] = []
        self._directories: tuple[Path, ...] = ()

    def make(self, root: Path, journal_id: str) -> tuple[Path, Path, mmap.mmap]:
        """Make a locked directory below ``root``; gives both, resolved, and its counters' page.

        Nobody else can lock it before we do: it gets its name when both locks are held.
        """
        root = make_root(root)
        unnamed, directory = root / f".{journal_id}", root / journal_id
        self._directories = (unnamed, directory)
        make_private(unnamed)
        for name in ("owner.lock", "shipper.lock"):
            fd = try_lock(unnamed / name, create=True)
            if fd is None:
                raise OSError(errno.ENOLCK, f"{name} cannot be locked")
            self._locks.append(fd)
        page = map_books(unnamed, create=True)
        unnamed.rename(directory)
        return root, directory, page

    def undo(self) -> None:
        """Release it, and remove what was made."""
        self.release()
        for directory in self._directories:
            if directory.is_dir():
                remove_directory(directory)

    def release(self) -> None:
        """Let go of the locks."""
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()
