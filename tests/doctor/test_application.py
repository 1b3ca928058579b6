"""The doctor on an application: one is written, and imported in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doctor.conftest import Patient

PASSWORD = "hunter2-swordfish"


class Application:
    """A module in a directory, and what the doctor says of it."""

    def __init__(self, directory: Path, patient: Patient) -> None:
        self.directory = directory
        self.dsn = patient.dsn
        self.journal = directory / "journal"
        self.journal.mkdir(mode=0o700)

    def find(self, source: str, name: str = "shop") -> dict[str, str]:
        """Give the findings of the application, with their details, by code."""
        (self.directory / "shop.py").write_text(
            "import tenantry\nfrom tenantry.taxonomies import saas\n" + source
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tenantry.cli import main; main()",
                "doctor",
                *("--dsn", self.dsn, "--journal", str(self.journal), "--app", name, "--json"),
            ],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert PASSWORD not in done.stdout + done.stderr
        report = json.loads(done.stdout)
        return {
            each["code"]: each["detail"]
            for each in report["findings"]
            if each["code"].startswith("app_")
        }

    def configure(self, **changes: object) -> str:
        options = {
            "dsn": self.dsn,
            "journal": str(self.journal),
            "taxonomy": "tenantry.taxonomies.saas",
            **changes,
        }
        listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return f"tenantry.configure({listed})"


@pytest.fixture
def server(postgres18):
    return postgres18  # nothing here is the server's doing


@pytest.fixture
def application(tmp_path: Path, patient: Patient) -> Application:
    return Application(tmp_path, patient)


def test_application_that_is_well_is_not_mentioned(application: Application):
    assert application.find(application.configure()) == {}


def test_pipeline_of_an_attribute_is_looked_at(application: Application):
    source = "class Made:\n    pipeline = " + application.configure().replace(
        "tenantry.configure", "tenantry.Pipeline"
    )
    assert application.find(source, "shop:Made.pipeline") == {}
    assert set(application.find(source)) == {"app_not_configured"}


def test_application_that_fails_is_told_without_its_text(application: Application):
    found = application.find(f"raise RuntimeError('postgresql://me:{PASSWORD}@db/app')")
    assert list(found) == ["app_failed"]
    assert found["app_failed"].startswith("RuntimeError at ")
    assert found["app_failed"].endswith("shop.py:3")


def test_application_that_exits_when_imported_is_told(application: Application):
    assert application.find("raise SystemExit(0)")["app_failed"].startswith("SystemExit at ")


def test_module_that_is_not_there_is_told(application: Application):
    assert list(application.find("", "no_such_module_anywhere")) == ["app_failed"]
    assert list(application.find("", "shop:missing")) == ["app_failed"]


def test_application_that_configures_nothing_is_told(application: Application):
    assert list(application.find("")) == ["app_not_configured"]


def test_application_in_memory_mode_is_told(application: Application):
    assert list(application.find(application.configure(journal=None))) == ["app_in_memory"]


def test_application_with_other_settings_is_told(application: Application):
    found = application.find(
        application.configure(
            dsn=f"postgresql://me:{PASSWORD}@127.0.0.1:1/app",
            tenant_type="text",
            journal=str(application.directory / "elsewhere"),
            shutdown_timeout=0.0,
        )
    )
    assert list(found) == ["app_other_destination", "app_other_tenant_type", "app_other_journal"]
    assert found["app_other_destination"].startswith("it sends to 127.0.0.1:1/app/tenantry, and")


def test_application_without_taxonomy_in_strict_mode_is_told(application: Application):
    source = application.configure(dsn=None, strict=True).replace(
        "taxonomy='tenantry.taxonomies.saas'", "exporter=tenantry.exporters.memory.MemoryExporter()"
    )
    source = "import tenantry.exporters.memory\n" + source.replace("dsn=None, ", "")
    assert set(application.find(source)) >= {"app_without_taxonomy", "app_strict"}
