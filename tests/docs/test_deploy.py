"""What the page on deploying shows: YAML, units, logins and a pooler's settings, each tried."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry import Pipeline, log_event, tenant
from tenantry.journal import problems_of
from tests.cli.commands import TENANT, Command, die_with_events, wait_until
from tests.docs.pages import find_pages, read_blocks
from tests.fix_postgres import Database

PAGE = "how-to/deploy.md"
FILES = {block.caption: block.text for block in read_blocks(PAGE) if block.caption}
UNITS = [name for name in FILES if name.endswith((".service", ".timer"))]
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


# Kubernetes and Docker.


def find_pods() -> list[tuple[str, dict[str, Any]]]:
    pods = []
    for file in ("shop.yaml", "shop-stateful.yaml", "shop-jobs.yaml"):
        for document in yaml.safe_load_all(FILES[file]):
            spec = document["spec"]
            if document["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            pod = spec["template"]["spec"]
            claims = [claim["metadata"] for claim in spec.get("volumeClaimTemplates", [])]
            pod["volumes"] = [*pod.get("volumes", []), *claims]
            pods.append((f"{document['kind']} {document['metadata']['name']}", pod))
    return pods


PODS = find_pods()


@pytest.mark.parametrize("page", find_pages())
def test_yaml_of_a_page_is_yaml(page: str):
    for block in read_blocks(page):
        if block.language == "yaml":
            assert all(yaml.safe_load_all(block.text))


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in PODS])
def test_journal_of_each_container_lies_below_a_volume_of_its_pod(pod: dict[str, Any]):
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers_of(pod):
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        assert set(mounts.values()) <= volumes
        for variable in container.get("env", []):
            if variable["name"] == "TENANTRY_JOURNAL":
                journal = PurePosixPath(variable["value"])
                assert [mount for mount in mounts if PurePosixPath(mount) in journal.parents]


@pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in PODS])
def test_those_who_share_a_journal_are_one_user(pod: dict[str, Any]):
    for container in containers_of(pod):
        if container.get("env"):
            assert "runAsUser" not in container.get("securityContext", {})
            assert pod["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize(
    "mode, is_safe",
    [
        pytest.param(0o777, False, id="an emptyDir as it is made"),
        pytest.param(0o1777, True, id="after the init container"),
        pytest.param(0o2775, True, id="a claim with fsGroup"),
    ],
)
def test_folder_below_a_mount_is_safe_or_not(mode: int, is_safe: bool, tmp_path: Path):
    mount = tmp_path / "journal"
    mount.mkdir()
    mount.chmod(mode)
    assert (problems_of(mount / "shop") == []) == is_safe


def test_sidecar_drains_when_it_is_asked_to_end(
    database18: Database, place: Path, monkeypatch: pytest.MonkeyPatch
):
    (drain,) = [
        each for each in containers_of(dict(PODS)["Deployment shop"]) if each["name"] == "drain"
    ]
    die_with_events(database18.writer, place / "journal" / "shop")
    monkeypatch.setenv("TENANTRY_DSN", database18.writer)
    monkeypatch.setenv("TENANTRY_JOURNAL", str(place / "journal" / "shop"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    shell, option, script = drain["command"]
    ready = script.replace("sleep infinity", "echo ready; sleep infinity")
    sidecar = subprocess.Popen(
        [shell, option, ready], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert sidecar.stdout is not None
        assert sidecar.stdout.readline() == "ready\n"
        sidecar.terminate()
        wait_until(lambda: sidecar.poll() is not None, "the sidecar does not end")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(sidecar.pid, signal.SIGKILL)  # its `sleep`, which a container takes along
        sidecar.wait()
        assert sidecar.stdout is not None
        sidecar.stdout.close()
    assert sidecar.returncode == 0
    assert database18.execute("SELECT count(*) FROM tenantry.events") == [(7,)]


def test_compose_file_has_the_volumes_and_services_that_it_names():
    compose = yaml.safe_load(FILES["compose.yaml"])
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if "/" not in name} <= set(compose["volumes"])
        files = {name.removeprefix("./") for name in named if "/" in name}
        assert files <= set(FILES)


# systemd.


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_one_that_systemd_takes(unit: str, tmp_path: Path):
    for name in UNITS:  # a timer is looked at with its service
        text = re.sub(r"/opt/shop/bin/\w+", sys.executable, FILES[name])
        (tmp_path / name).write_text(text)
    if shutil.which("systemd-analyze") is None:
        parser = RawConfigParser(strict=False)
        parser.read_string(FILES[unit])
        assert set(parser.sections()) <= {"Unit", "Service", "Timer", "Install"}
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, said) == (0, [])


# Logins.


@pytest.fixture
def logins(database18: Database, tidied: None) -> dict[str, str]:
    (made,) = [
        block.text for block in read_blocks(PAGE) if block.text.startswith("CREATE ROLE shop_app")
    ]
    with psycopg.connect(database18.owner, autocommit=True) as connection:
        connection.execute(made.encode())
    return {
        name: make_conninfo(database18.superuser, user=f"shop_{name}")
        for name in ("app", "reports", "ops")
    }


@pytest.fixture
def command(place: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_each_login_may_what_the_page_says(
    database18: Database, logins: dict[str, str], place: Path, command: Command
):
    journal = place / "journal"
    die_with_events(logins["app"], journal)
    assert command("drain", "--dsn", logins["app"], "--journal", journal) == 0
    assert command("stats", "--dsn", logins["ops"], "--journal", journal) == 0
    assert command("tail", "--dsn", logins["ops"]) == 0
    assert "ingest_failed" in command.out
    assert command("tail", "--dsn", logins["reports"], "--tenant", TENANT) == 0
    assert "ingest_failed" in command.out
    assert command("maintain", "--dsn", database18.owner) == 0
    for login in ("app", "reports"):
        with psycopg.connect(logins[login]) as connection:
            query = "SELECT count(*) FROM tenantry.events"
            if login == "app":
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(query)
            else:
                assert connection.execute(query).fetchone() == (0,)
    for login in ("reports", "ops"):
        with (
            psycopg.connect(logins[login]) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("DELETE FROM tenantry.events")


# PgBouncer.


@pytest.mark.skipif(
    PGBOUNCER is None, reason="pgbouncer is not installed: apt-get install pgbouncer"
)
def test_events_go_through_a_pooler_of_these_settings(
    database18: Database, logins: dict[str, str], place: Path
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = conninfo_to_dict(database18.superuser)
    replaced = {
        "host=db.internal port=5432": f"host={server['host']} dbname={server['dbname']}",
        "listen_addr = 0.0.0.0": "listen_addr = 127.0.0.1\nunix_socket_dir =",
        "listen_port = 6432": f"listen_port = {port}",
        "auth_type = scram-sha-256": "auth_type = trust",  # the tests' servers ask no password
        "/etc/pgbouncer/userlist.txt": str(place / "users"),
    }
    settings = FILES["pgbouncer.ini"]
    for shown, here in replaced.items():
        assert shown in settings
        settings = settings.replace(shown, here)
    (place / "users").write_text('"shop_app" ""\n')
    (place / "pgbouncer.ini").write_text(settings)
    pooler = subprocess.Popen(
        [str(PGBOUNCER), "-q", str(place / "pgbouncer.ini")],
        stderr=subprocess.DEVNULL,
        user=database18.server.data.stat().st_uid if os.geteuid() == 0 else None,
    )
    try:
        dsn = f"postgresql://shop_app@127.0.0.1:{port}/shop"
        pipeline = Pipeline(dsn=dsn, taxonomy="tenantry.taxonomies.saas", journal=place / "journal")
        with pipeline, tenant(TENANT):
            log_event("quota_exceeded", quota_type="seats", limit=1, attempted=2)
        report = pipeline.shutdown(20)
    finally:
        pooler.terminate()
        pooler.wait(20)
    assert report, report
    assert database18.execute("SELECT name FROM tenantry.events") == [("quota_exceeded",)]
