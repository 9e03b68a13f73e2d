"""What a cluster does to a run: workers slow, late and killed, a scheduler killed, workers that do not fit. Real processes."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module

import pytest

from storage.features import FeatureStore
from storage.runs import read_run
from tasks.cluster import Cluster, ClusterError
from tests.factories import write_folder
from tests.pipeline_factory import LAYERS, REPOSITORY, extract_only, tiny_spec
from tests.test_flows.dask_processes import DaskProcesses, slowed, wait_until

pytestmark = pytest.mark.slow

_IMAGES = 48


@pytest.fixture
def dask(prefect_here, tmp_path):
    found = DaskProcesses(tmp_path / "dask")
    try:
        found.start_scheduler()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The images, an experiment on them, and the store that one process makes of them."""
    folder = tmp_path_factory.mktemp("alone")
    data = write_folder(folder / "data", splits={"train": _IMAGES - 2, "val": 2}, image_hw=(48, 64))
    spec = tiny_spec(data, name="on-a-cluster", store__shard_images=2, store__batch_images=2)
    return spec, FeatureStore.open(extract_only(spec, folder / "workspace").path)


def extract(dask, spec, workspace, **options):
    flow = import_module("flows.extract_features").extract_features
    return flow(config=spec, workspace=workspace, cluster=Cluster(dask_address=dask.address, **options))


def commits(workspace):
    return [
        record for record in workspace.glob("stores/*/journal/records/0*.json") if b'"kind":"commit"' in record.read_bytes()
    ]


def parts_scored(workspace):
    return list(workspace.glob("checkpoints/*/*"))


class Meanwhile(threading.Thread):
    """Does something to the cluster as soon as the run has made so many commits, or other things."""

    def __init__(self, workspace, count, action, of=commits):
        super().__init__()
        self.workspace, self.count, self.action, self.made = workspace, count, action, of
        self.failure, self.over = None, threading.Event()

    def run(self):
        try:
            wait_until(
                lambda: self.over.is_set() or len(self.made(self.workspace)) >= self.count, "the first of them", seconds=120
            )
            assert not self.over.is_set(), "the run was over before anything could be done to it"
            self.action()
        except (AssertionError, OSError) as error:
            self.failure = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def lock_is_free(workspace):
    """Tell whether nobody has a store's lock in hand: a worker that stands still with it keeps everybody else waiting."""
    with next(workspace.glob("stores/*/journal/store.lock")).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def make_stand_still(workers, workspace):
    """Stop processes at a moment when none of them has the store's lock in hand."""

    def signal_all(number):
        for worker in workers:
            os.kill(worker.pid, number)

    signal_all(signal.SIGSTOP)
    while not lock_is_free(workspace):
        signal_all(signal.SIGCONT)
        time.sleep(0.05)
        signal_all(signal.SIGSTOP)


def is_the_same(store, other):
    keys = [key for shard in store.core.index.shards() for key in store.core.index.slot_keys(shard).values()]
    assert len(keys) == _IMAGES
    for layer in LAYERS:
        expected, _ = store.reader([layer]).read_stored(layer, store.rows(keys, LAYERS))
        found, _ = other.reader([layer]).read_stored(layer, other.rows(keys, LAYERS))
        assert expected.tobytes() == found.tobytes(), layer
    assert other.verify() == []
    return True


def parts_done(dask, worker):
    return (dask.folder / f"worker-{worker}.log").read_text(encoding="utf-8", errors="replace").count("Task run 'extract part-")


def test_a_slow_worker_does_less_and_a_late_one_takes_over_what_it_has_not_begun(dask, alone, workspace):
    spec, store = alone
    dask.start_workers(2)
    slow, less_slow = dask.workers
    with slowed(slow), slowed(less_slow, stopped=0.1), Meanwhile(workspace, 2, dask.start_worker):
        result = extract(dask, spec, workspace)
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"]))
    done = [parts_done(dask, worker) for worker in range(3)]
    assert sum(done) >= 16
    assert done[0] < done[1]
    assert done[2] > 0, done


def test_a_worker_that_is_killed_costs_nothing_that_was_committed(dask, alone, workspace):
    spec, store = alone
    dask.start_workers(2)
    kept = []

    def kill():
        kept.extend((path, path.read_bytes()) for path in commits(workspace))
        dask.workers[0].kill()

    with Meanwhile(workspace, 4, kill):
        result = extract(dask, spec, workspace)
    found = FeatureStore.open(result.artefacts["extract"])
    assert is_the_same(store, found)
    assert kept
    assert all(path.read_bytes() == content for path, content in kept)
    assert len(commits(workspace)) == _IMAGES // 2, "each shard was committed once"
    assert read_run(result.run_dir).status == "finished"


def test_a_worker_that_is_killed_while_it_scores_changes_no_score(dask, workspace, tmp_path):
    data = write_folder(tmp_path / "data", splits={"train": 4, "val": 32}, image_hw=(48, 64))
    spec = tiny_spec(data, name="scored")
    import_module("flows.train_dense").train_dense(config=spec, workspace=workspace)
    evaluate = import_module("flows.evaluate_model").evaluate_model
    dask.start_workers(2)
    with Meanwhile(workspace, 2, dask.workers[0].kill, of=parts_scored):
        spread = evaluate(config=spec, workspace=workspace, cluster=Cluster(dask_address=dask.address))
    assert not parts_scored(workspace), "nothing of the parts is left"
    shutil.rmtree(workspace / "evaluations")
    alone = evaluate(config=spec, workspace=workspace)
    assert (spread.metrics, spread.baselines) == (alone.metrics, alone.baselines)


def test_a_scheduler_that_is_killed_ends_the_run_and_the_next_one_resumes(dask, alone, workspace, prefect_here):
    spec, store = alone
    dask.start_workers(2)
    killed = []

    def kill():
        dask.scheduler.kill()
        dask.scheduler.wait(10)
        killed.append(time.monotonic())

    with Meanwhile(workspace, 4, kill), pytest.raises(ClusterError, match=r"the Dask scheduler .*run again, and it resumes"):
        extract(dask, spec, workspace)
    assert time.monotonic() - killed[0] < 45
    (folder,) = (path for path in (workspace / "runs").iterdir() if path.is_dir())
    assert read_run(folder).status == "failed"
    for worker in dask.workers:
        worker.wait(60)
    before = len(commits(workspace))
    assert 4 <= before < _IMAGES // 2
    dask.start_scheduler()
    dask.start_workers(1)
    result = extract(dask, spec, workspace)
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"]))
    assert result.cache[LAYERS[0]]["hits"] == 2 * before


_FLOW = """
import json, sys
from flows.extract_features import extract_features
from hypercolumns.specs import ExperimentSpec, parse_spec
from tasks.cluster import Cluster
spec = parse_spec(ExperimentSpec, json.loads(sys.argv[1]))
extract_features(config=spec, workspace=sys.argv[2], cluster=Cluster(dask_address=sys.argv[3]))
"""


def test_a_flow_that_is_killed_leaves_its_workers_to_the_next_one_which_resumes(dask, alone, workspace, prefect_here):
    spec, store = alone
    dask.start_workers(2)
    arguments = [spec.model_dump_json(), str(workspace), dask.address]
    command = [sys.executable, "-c", _FLOW, *arguments]
    flow = subprocess.Popen(command, cwd=REPOSITORY, env=prefect_here.environment)
    try:
        with Meanwhile(workspace, 4, flow.kill):
            assert flow.wait(180) == -signal.SIGKILL
    finally:
        flow.kill()
        flow.wait()
    kept = [(path, path.read_bytes()) for path in commits(workspace)]
    assert 4 <= len(kept) < _IMAGES // 2, "the workers stop once nobody asks for what they do"
    result = extract(dask, spec, workspace)
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"]))
    assert result.cache[LAYERS[0]]["hits"] >= 2 * len(kept)
    assert all(path.read_bytes() == content for path, content in kept)
    assert len(commits(workspace)) == _IMAGES // 2, "each shard was committed once"
    assert all(worker.poll() is None for worker in dask.workers)


def test_a_cluster_that_loses_all_its_workers_is_not_waited_for_for_ever(dask, alone, workspace):
    spec, _ = alone
    dask.start_workers(1)
    start = time.monotonic()
    with (
        Meanwhile(workspace, 2, dask.workers[0].kill),
        pytest.raises(ClusterError, match=r"lost all its workers, for more than 3 s now. .*it resumes"),
    ):
        extract(dask, spec, workspace, patience_seconds=3)
    assert time.monotonic() - start < 90


def test_a_cluster_without_workers_is_said_to_have_none(dask, alone, workspace):
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"has no workers, also after 2 s. Remedy: start some: `dask worker tcp://127"):
        extract(dask, alone[0], workspace, patience_seconds=2)
    assert time.monotonic() - start < 20


def test_a_worker_of_another_torch_is_named_before_anything_is_computed(dask, alone, workspace, tmp_path):
    other = tmp_path / "site" / "torch-1.2.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    dask.start_worker(environment={"PYTHONPATH": f"{other.parent}{os.pathsep}{REPOSITORY}"})
    with pytest.raises(ClusterError, match=r"1 of 1 workers cannot take part.*it has torch 1.2.3, the flow has"):
        extract(dask, alone[0], workspace)
    assert not commits(workspace)


def test_a_worker_of_other_code_is_named_before_anything_is_computed(dask, alone, workspace, tmp_path):
    for package in ("hypercolumns", "storage", "tasks", "flows"):
        shutil.copytree(REPOSITORY / package, tmp_path / "code" / package)
    with (tmp_path / "code" / "tasks" / "extract.py").open("a") as file:
        file.write("\n# another release\n")
    dask.start_worker(environment={"PYTHONPATH": str(tmp_path / "code")})
    with pytest.raises(ClusterError, match=r"its code of hypercolumns is another than the flow's: install the same release"):
        extract(dask, alone[0], workspace)


def test_a_worker_that_lacks_the_code_is_named(dask, alone, workspace):
    dask.start_worker(preload="import sys\nsys.modules['flows'] = None\n")
    with pytest.raises(ClusterError, match=r"it cannot run our code .*install the same release"):
        extract(dask, alone[0], workspace)


def test_a_worker_that_does_not_see_the_workspace_is_named(dask, alone, workspace):
    workspace.mkdir()
    unshared = ("unshare", "--mount", "--", "sh", "-c", f'mount -t tmpfs none "{workspace}" && exec "$@"', "sh")
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount anything: a worker without the workspace cannot be had")
    dask.start_worker(prefix=unshared)
    with pytest.raises(ClusterError, match=r"does not see .*/runs/.*: the workspace must be a shared folder"):
        extract(dask, alone[0], workspace)


def test_a_worker_that_stands_still_for_a_while_does_no_harm(dask, alone, workspace):
    spec, store = alone
    dask.start_workers(2)
    stopped = dask.workers[0]

    resumed = threading.Timer(12, os.kill, (stopped.pid, signal.SIGCONT))

    def stop():
        os.kill(stopped.pid, signal.SIGSTOP)
        resumed.start()

    with Meanwhile(workspace, 2, stop):
        result = extract(dask, spec, workspace)
    resumed.join()
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"]))


def test_a_worker_that_stands_still_for_good_is_given_up_and_costs_nothing_that_was_committed(dask, alone, workspace):
    spec, store = alone
    dask.start_workers(2)
    stopped = dask.workers[0]

    with Meanwhile(workspace, 2, lambda: make_stand_still([stopped], workspace)):
        result = extract(dask, spec, workspace, silence_seconds=5)
    assert stopped.poll() is None, "it stands still to the end"
    assert dask.names() == {"worker-1"}
    found = FeatureStore.open(result.artefacts["extract"])
    assert is_the_same(store, found)
    assert len(commits(workspace)) == _IMAGES // 2
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.wait(60)
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"])), "coming to, it does no harm, and ends"


def test_where_all_workers_stand_still_the_run_fails_and_says_so(dask, alone, workspace):
    spec, store = alone
    dask.start_workers(2)

    with (
        Meanwhile(workspace, 2, lambda: make_stand_still(dask.workers, workspace)),
        pytest.raises(ClusterError, match="lost all its workers"),
    ):
        extract(dask, spec, workspace, silence_seconds=5, patience_seconds=5)
    for worker in dask.workers:
        os.kill(worker.pid, signal.SIGCONT)
        worker.wait(60)
    dask.start_worker()
    result = extract(dask, spec, workspace)
    assert is_the_same(store, FeatureStore.open(result.artefacts["extract"]))
