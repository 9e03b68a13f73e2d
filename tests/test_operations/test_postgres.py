"""The service on PostgreSQL: a server of its own, started by hand in a folder of the test, and a run that is kept there."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.test_operations.conftest import running_up, tiny_shapes

pytestmark = pytest.mark.slow
_PASSWORD = "only-for-this-test"


def programs():
    """Return the folder of PostgreSQL's programs: Debian's newest, or where the path leads."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path(shutil.which("initdb") or "/").parent]
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
            return folder
    pytest.skip("no PostgreSQL on this machine")


def unprivileged():
    """Return what starts a command as somebody other than root, which PostgreSQL refuses to run as; and who that is."""
    if os.geteuid() != 0:
        return [], None
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("root, and no user postgres to run PostgreSQL as")
    if shutil.which("setpriv") is None:
        pytest.skip("root, and no setpriv to become somebody else")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user


@pytest.fixture
def postgres():
    """Start a PostgreSQL server on a free port of the loopback address, and end exactly it; yields its port and a query."""
    binaries, (become, user) = programs(), unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="hypercolumns-postgres-"))
    (folder / "password").write_text(_PASSWORD, encoding="utf-8")
    if user is not None:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    init = [*become, binaries / "initdb", "-D", folder / "data", "-U", "prefect", "-A", "scram-sha-256", "--no-sync"]
    subprocess.run([*init, f"--pwfile={folder / 'password'}"], check=True, capture_output=True, cwd=folder)
    command = [*become, binaries / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port), "-h", "127.0.0.1"]
    log = folder / "postgres.log"

    def query(text):
        psql = [binaries / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-d", "postgres", "-tA", "-c", text]
        environment = {**os.environ, "PGPASSWORD": _PASSWORD}
        return subprocess.run(psql, capture_output=True, text=True, env=environment, check=False).stdout.strip()

    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while query("select 1") != "1":
                assert process.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
                time.sleep(0.2)
            yield port, query
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(folder)


def test_a_run_on_postgresql_ends_well_and_is_kept_there(postgres, tmp_path):
    port, query = postgres
    url = f"postgresql+asyncpg://prefect:{_PASSWORD}@127.0.0.1:{port}/postgres"
    with running_up(tmp_path / "workspace", environment={"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}) as up:
        run = up.trigger("run-experiment", config=tiny_shapes("on-postgres"))
        up.wait(run, {"COMPLETED"}, 180)
        assert not (up.workspace / "prefect" / "prefect.db").exists()
        assert query(f"select name, state_type from flow_run where id = '{run}'") == "on-postgres|COMPLETED"
        assert _PASSWORD not in up.text + up.worker_log
    assert query("select count(*) from deployment") != "0", "what is kept outlives the service"
