"""How an application is imported, which of it is looked at, and against which taxonomy."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tenantry
from tenantry import configuring, pipeline
from tenantry.checking.check import check
from tenantry.checking.findings import Report
from tenantry.checking.importing import import_application, is_own_file, search_path
from tenantry.decorated import decorations
from tenantry.exceptions import ConfigurationError
from tenantry.registry import load_taxonomy

SAAS = "tenantry.taxonomies.saas"

Write = Callable[..., Report]


def names(report: Report) -> list[tuple[str, str]]:
    return [(f.code, f.name) for f in report.findings if f.code != "never_emitted"]


# Importing.


def test_configure_at_import_configures_nothing_and_gives_the_taxonomy(write_app: Write):
    report = write_app(
        shop="import tenantry\n"
        f"made = tenantry.configure(dsn='postgresql://x.invalid/', taxonomy={SAAS!r})\n"
        "made.stats()\n"
        "@tenantry.emits('ingst')\ndef f(): ...\n"
    )
    assert names(report) == [("unknown_operation", "ingst")]
    assert report.events == 11
    assert pipeline.configured is None
    assert tenantry.configure is configuring.configure
    assert tenantry.configure.__module__ == "tenantry.configuring"


@pytest.mark.parametrize(
    "source",
    [
        f"def main(): configure(taxonomy={SAAS!r})",
        "from tenantry.taxonomies import saas\ndef main(): configure(taxonomy=saas)",
        f"NAME = {SAAS!r}\ndef main(): configure(taxonomy=NAME)",
        "from tenantry.taxonomies.saas import *\ndef main(): configure(taxonomy=[PlanUpdated])",
        f"def main():\n    from tenantry import Pipeline\n    return Pipeline(taxonomy={SAAS!r})",
    ],
    ids=["a name", "a module", "a constant", "classes", "a pipeline of its own"],
)
def test_taxonomy_is_found_where_the_source_configures_it(write_app: Write, source: str):
    report = write_app(shop=f"from tenantry import configure, log_event\n{source}\n")
    assert report.events in {1, 11}


def test_open_names_of_configure_count(write_app: Write):
    report = write_app(
        shop="from tenantry import configure, emits, log_event\n"
        f"def main(): configure(taxonomy={SAAS!r}, open_taxonomy=['plugin_*'])\n"
        "def work():\n"
        "    log_event('plugin_run', anything=3)\n"
        "    with emits('plugin_x', more=1): ...\n"
    )
    assert names(report) == []


def test_two_taxonomies_ask_which_is_meant(write_app: Write):
    with pytest.raises(ConfigurationError, match=r"with 2 taxonomies .*: say with --taxonomy"):
        write_app(
            shop="from tenantry import configure\n"
            f"def main(): configure(taxonomy={SAAS!r})\n"
            "from tenantry.taxonomies.saas import PlanUpdated\n"
            "def other(): configure(taxonomy=[PlanUpdated])\n"
        )


def test_no_taxonomy_asks_for_one(write_app: Write):
    with pytest.raises(ConfigurationError, match=r"no configure\(taxonomy=…\) is found"):
        write_app(shop="")


def test_taxonomy_of_configure_that_cannot_be_loaded_is_named(write_app: Write):
    with pytest.raises(
        ConfigurationError, match=r"that configure\(\) is given: .*'nowhere.events'"
    ):
        write_app(
            shop="from tenantry import configure\ndef f(): configure(taxonomy='nowhere.events')"
        )


def test_import_that_raises_names_the_line_and_the_exception(write_app: Write):
    with pytest.raises(ConfigurationError) as raised:
        write_app(shop="import settings\n", settings="import os\n\nURL = os.environ['NO_SUCH']\n")
    text = str(raised.value)
    assert "importing shop failed in " in text
    assert "settings.py:3: KeyError: 'NO_SUCH'. The check imports what the server" in text
    assert isinstance(raised.value.__cause__, KeyError)


def test_import_that_exits_is_an_error_too(write_app: Write):
    with pytest.raises(ConfigurationError, match=r"shop\.py:1: SystemExit: 3"):
        write_app(shop="raise SystemExit(3)\n")


def test_reserved_word_in_a_decorator_is_named_with_its_line(write_app: Write):
    with pytest.raises(
        ConfigurationError, match=r"shop\.py:2: ConfigurationError: .*'correlation'"
    ):
        write_app(
            shop="import tenantry\n@tenantry.emits('ingest', correlation='x')\ndef f(): ...\n"
        )


def test_missing_module_names_what_is_missing_and_where(tmp_path: Path):
    with (
        search_path(tmp_path),
        pytest.raises(
            ConfigurationError, match=r"'nowhere\.app' is not found: there is no nowhere"
        ),
    ):
        import_application(["nowhere.app"], tmp_path)


def test_module_that_the_application_misses_is_a_failed_import(write_app: Write):
    with pytest.raises(ConfigurationError, match=r"shop\.py:1: ModuleNotFoundError: No module"):
        write_app(shop="import not_installed_anywhere\n")


def test_file_in_place_of_a_module_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"'app\.py' is no module"):
        import_application(["app.py"], tmp_path)


def test_missing_attribute_is_named(tmp_path: Path, own_modules: None):
    (tmp_path / "shop.py").write_text("")
    with (
        search_path(tmp_path),
        pytest.raises(ConfigurationError, match="the module shop has no attribute 'app'"),
    ):
        import_application(["shop:app"], tmp_path)


# What is looked at.


def test_modules_below_the_directory_are_looked_at_and_installed_ones_are_not(write_app: Write):
    report = write_app(
        load_taxonomy(SAAS),
        shop="import billing, pydantic\n",
        billing="from tenantry import log_event\ndef f(): log_event('nothing')\n",
    )
    assert report.modules == ["billing", "shop"]
    assert names(report) == [("unknown_event", "nothing")]


def test_environment_within_the_directory_is_not_the_application():
    assert not is_own_file(pytest.__file__, Path(sys.prefix).parent)


def test_name_made_at_run_time_is_known_where_the_decorated_function_lives(write_app: Write):
    report = write_app(
        load_taxonomy(SAAS),
        shop="from tenantry import emits\n"
        "def make(name):\n"
        "    @emits(name)\n"
        "    def work(): ...\n"
        "    return work\n"
        "kept = [make('ingest'), make('ingestion')]\n",
    )
    assert ("unknown_operation", "ingestion") in names(report)
    assert ("missing_key", "ingest") in names(report)
    assert report.functions == 2


def test_function_decorated_by_a_call_is_checked_by_its_own_signature(write_app: Write):
    report = write_app(
        load_taxonomy(SAAS),
        shop="import shutil\nfrom tenantry import emits\n"
        "def read(source_type, url) -> None: ...\n"
        "kept = emits('ingest')(shutil.copy)\n"
        "track = emits('ingest', docs=1, chunks=1)\n"
        "read = track(read)\n",
    )
    # Of shutil.copy: source_type and url, which it does not take.
    assert {f.key for f in report.findings if f.code == "missing_key"} == {"source_type", "url"}
    assert {f.place.line for f in report.findings if f.code == "missing_key"} == {4}


def test_what_decorated_functions_leave_behind_is_nothing(write_app: Write):
    @tenantry.emits("ingest")
    def local() -> None: ...

    assert any(each.target is local.__wrapped__ for each in decorations)
    del local
    gc.collect()
    assert not any(
        "test_what_decorated" in getattr(each.target, "__qualname__", "") for each in decorations
    )


def test_key_that_a_helper_sets_in_its_callers_operation_is_uncertain(write_app: Write):
    report = write_app(
        load_taxonomy(SAAS),
        shop="from tenantry import current_operation, emits\n"
        "@emits('ingest')\n"
        "def ingest(source_type, url) -> None: count()\n"
        "def count():\n"
        "    current_operation().set(docs=1)\n",
    )
    codes = {f.key: str(f.code) for f in report.findings if f.name == "ingest"}
    assert codes == {"docs": "uncertain_key", "chunks": "missing_key"}


def test_event_that_a_function_names_counts_as_emitted(write_app: Write):
    report = write_app(
        load_taxonomy(SAAS),
        shop="from tenantry.taxonomies.saas import PlanUpdated, QuotaExceeded\n"
        "def make(): return PlanUpdated.model_validate({})\n",
    )
    never = {f.name for f in report.findings if f.code == "never_emitted"}
    assert "plan_updated" not in never
    assert "quota_exceeded" in never


def test_empty_taxonomy_is_a_taxonomy(write_app: Write):
    report = write_app(load_taxonomy(None), shop="from tenantry import log_event\nlog_event('x')\n")
    assert names(report) == [("unknown_event", "x")]


def test_module_without_source_shows_nothing(tmp_path: Path, own_modules: None):
    package = tmp_path / "bare"
    package.mkdir()
    with search_path(tmp_path):
        application = import_application(["bare"], tmp_path)
    report = check(application, load_taxonomy(None))
    assert (report.modules, report.findings) == (["bare"], [])


def test_import_of_the_package_loads_nothing_of_the_checks():
    program = (
        "import sys, tenantry; print([n for n in sys.modules if n.startswith("
        "('tenantry.checking', 'tenantry.tracking'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"
