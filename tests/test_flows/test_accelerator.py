"""The accelerator's slot: which stages hold it, and that the server's limit makes them take turns."""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import copy_context

import pytest
import torch

from flows import accelerator
from tests.box_factory import box_spec
from tests.pipeline_factory import tiny_spec


@pytest.fixture
def one_slot(prefect_here):
    """Give the server a limit of one, as `hypercolumns up` does."""
    prefect_here.post("v2/concurrency_limits/", name=accelerator.GPU_LIMIT, limit=1)
    yield
    prefect_here.api.request("DELETE", f"v2/concurrency_limits/{accelerator.GPU_LIMIT}")


def test_two_that_compute_on_an_accelerator_take_turns(one_slot, monkeypatch):
    monkeypatch.setattr(accelerator, "compute_device", lambda: torch.device("cuda", 0))
    spans = []

    def compute():
        with accelerator.accelerator():
            start = time.monotonic()
            time.sleep(0.5)
            spans.append((start, time.monotonic()))

    # Prefect's settings belong to a context, and each thread has its own.
    threads = [threading.Thread(target=copy_context().run, args=(compute,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start


@pytest.fixture
def holders(prefect_here, monkeypatch):
    """Note which stages held a slot while they ran."""
    from flows import stages

    entered, noted = [], set()

    @contextlib.contextmanager
    def slot():
        yield
        entered.append(True)

    note_stage = stages.note_stage

    def note(job, name, result):
        if entered:
            noted.add(name)
            entered.clear()
        note_stage(job, name, result)

    monkeypatch.setattr(stages, "accelerator", slot)
    monkeypatch.setattr(stages, "note_stage", note)
    return noted


def test_stages_of_an_experiment_that_run_the_backbone_hold_a_slot_and_no_others(holders, data, workspace):
    from flows.run_experiment import run_experiment

    run_experiment(config=tiny_spec(data), workspace=workspace)
    assert holders == {"plan", "extract", "report"}


def test_in_boxes_they_do_too(holders, workspace):
    from flows.segment_instances import segment_instances

    segment_instances(config=box_spec(), workspace=workspace)
    assert holders == {"plan", "extract"}
