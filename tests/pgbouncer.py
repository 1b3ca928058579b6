"""A real PgBouncer in front of a server, where Debian's is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.fix_postgres import Server

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
IS_MISSING = "pgbouncer is not installed: apt-get install pgbouncer"

_CONFIGURATION = """
[databases]
* = host={host}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = {mode}
default_pool_size = {size}
"""


@contextmanager
def run_pgbouncer(
    server: Server, users: Iterable[str], *, mode: str = "transaction", size: int = 1
) -> Iterator[int]:
    """Run one for these users; gives its port of the loopback address."""
    directory = Path(tempfile.mkdtemp(prefix="tenantry-pgbouncer-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = conninfo_to_dict(server.dsn)["host"]
    (directory / "ini").write_text(
        _CONFIGURATION.format(host=host, port=port, directory=directory, mode=mode, size=size)
    )
    (directory / "users").write_text("".join(f'"{user}" ""\n' for user in users))
    directory.chmod(0o755)
    process = subprocess.Popen(
        [str(PGBOUNCER), "-q", str(directory / "ini")],
        stderr=subprocess.DEVNULL,
        user=server.data.stat().st_uid if os.geteuid() == 0 else None,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None, "pgbouncer did not start"
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            time.sleep(0.02)  # its start is seen from outside only
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)
        shutil.rmtree(directory)
