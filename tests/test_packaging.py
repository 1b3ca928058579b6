"""What the built distributions carry. Nothing is installed: the archives are opened and read."""

import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import hatchling.build
import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.1.0"


def tracked_files(folder: str) -> set[str]:
    """Files under a top-level folder, relative to it, without the compiler's leftovers."""
    return {
        path.relative_to(ROOT / folder).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder = tmp_path_factory.mktemp("wheel")
        name = hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist_names(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder = tmp_path_factory.mktemp("sdist")
        name = hatchling.build.build_sdist(str(folder))
    with tarfile.open(folder / name) as archive:
        return {member.split("/", 1)[1] for member in archive.getnames() if "/" in member}


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    text = wheel.read(f"tenantry-{VERSION}.dist-info/METADATA").decode()
    return Parser().parsestr(text)


def test_wheel_carries_every_migration(wheel):
    expected = {f"tenantry/migrations/{name}" for name in tracked_files("migrations")}
    assert expected
    assert expected <= set(wheel.namelist())


def test_wheel_carries_migrations_unchanged(wheel):
    for name in tracked_files("migrations"):
        packed = wheel.read(f"tenantry/migrations/{name}")
        assert packed == (ROOT / "migrations" / name).read_bytes()


def test_wheel_carries_every_module(wheel):
    expected = {f"tenantry/{name}" for name in tracked_files("src/tenantry")}
    assert "tenantry/py.typed" in expected
    assert expected <= set(wheel.namelist())


def test_wheel_carries_example_that_demo_runs(wheel):
    expected = {
        f"tenantry/examples/ingestion/{name}" for name in tracked_files("examples/ingestion")
    }
    assert expected
    assert expected <= set(wheel.namelist())


def test_wheel_carries_nothing_else(wheel):
    outside = {
        name
        for name in wheel.namelist()
        if not name.startswith(("tenantry/", f"tenantry-{VERSION}.dist-info/"))
    }
    assert outside == {"pytest_tenantry.py"}


def test_wheel_tells_pytest_of_its_plugin(wheel):
    entry_points = wheel.read(f"tenantry-{VERSION}.dist-info/entry_points.txt").decode()
    assert "[pytest11]\npytest_tenantry = pytest_tenantry\n" in entry_points


@pytest.mark.parametrize(
    "folder", ["src", "migrations", "examples", "tests"], ids=lambda folder: folder
)
def test_sdist_carries_every_file_of(folder, sdist_names):
    expected = {f"{folder}/{name}" for name in tracked_files(folder)}
    assert expected
    assert expected <= sdist_names


def test_sdist_carries_what_a_build_needs(sdist_names):
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= sdist_names


def test_metadata_names_license_and_python(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_metadata_offers_extras(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {"all", "binary", "cli", "embedded"}


def test_core_dependencies_are_few(metadata):
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(line.split(">=")[0] for line in required) == [
        "opentelemetry-api",
        "platformdirs",
        "psycopg",
        "pydantic",
        "pydantic-settings",
        "uuid-utils",
        "wrapt",
    ]
