"""Which failures are tried again: those that may pass, with the reason at the end of the chain, and no others."""

import errno

import pytest

from flows import stages
from flows.resilience import is_transient
from hypercolumns.errors import DatasetError
from storage.errors import DiskSpaceError, LeaseLostError, StorageError
from storage.runs import read_run
from tasks.cluster import ClusterError
from tasks.jobs import Stage
from tasks.record import begin_run
from tests.pipeline_factory import tiny_spec


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ESTALE, "stale file handle"), True),
        (caused(StorageError("a shard"), OSError(errno.EIO, "input/output error")), True),
        (caused(StorageError("a shard"), caused(StorageError("a file"), TimeoutError())), True),
        (LeaseLostError("another writer"), True),
        (ConnectionResetError("by peer"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (caused(DiskSpaceError("full"), OSError(errno.ENOSPC, "no space left")), False),
        (DatasetError("no masks"), False),
        (caused(ClusterError("the cluster does not answer any more"), TimeoutError()), False),
        (MemoryError(), False),
        (None, False),
    ],
)
def test_only_what_may_pass_is_transient(error, expected):
    assert is_transient(error) is expected


def test_causes_that_go_round_in_a_circle_come_to_an_end():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert is_transient(first) is False


@pytest.mark.parametrize(
    ("failure", "attempts"), [(OSError(errno.EIO, "input/output error"), 2), (DatasetError("no masks"), 1)]
)
def test_a_stage_that_stumbled_is_tried_again_and_one_with_wrong_input_is_not(prefect_here, data, tmp_path, failure, attempts):
    from prefect import flow

    from flows.stages import recorded_task

    tried = []

    def stumble(job):
        tried.append(1)
        if len(tried) == 1:
            raise failure
        return Stage(key="k" * 8, path=tmp_path, cached=False, seconds=0.0)

    job = begin_run(tiny_spec(data), tmp_path / "workspace")
    stage = recorded_task("stumble", stumble).with_options(retry_delay_seconds=0.01)

    @flow(persist_result=False)
    def once():
        return stage(job, return_state=True).type.value

    assert once() == ("COMPLETED" if attempts == 2 else "FAILED")
    assert len(tried) == attempts
    noted = [entry for entry in read_run(job.run_dir).entries if entry.kind == "stage"]
    assert len(noted) == attempts - 1, "only what succeeded is noted"


def test_every_stage_is_tried_again_with_jitter_and_never_for_good():
    tasks = [getattr(stages, name) for name in stages.__all__ if name != "recorded_task"]
    assert len(tasks) >= 14
    for task in tasks:
        assert (task.retries, task.retry_delay_seconds, task.retry_jitter_factor) == (2, [10, 60], 0.5), task.name
