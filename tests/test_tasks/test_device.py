"""Which device computes: named in the environment, checked before anything starts, recorded beside the maps."""

from __future__ import annotations

import contextlib

import pytest
import torch

from flows import accelerator
from hypercolumns.errors import SpecError
from tasks.device import ENVIRONMENT_VARIABLE, compute_device
from tasks.record import computed_by


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that torch sees two devices of CUDA's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("named", [None, "", "auto", " auto "])
def test_the_first_accelerator_is_taken_unless_another_device_is_named(named, monkeypatch, cuda):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, named)
    assert compute_device() == torch.device("cuda", 0)


@pytest.mark.parametrize(("named", "device"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1")])
def test_a_device_that_is_named_and_there_is_taken(named, device, monkeypatch, cuda):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, named)
    assert compute_device() == torch.device(device)


def test_without_an_accelerator_the_processor_computes(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device() == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused_and_never_replaced(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match=r"'cuda'.*sees 0 of CUDA's"):
        compute_device()


@pytest.mark.parametrize("named", ["gpu", "cuda:", "cuda:9", "meta", "cuda:-1"])
def test_what_names_no_device_of_ours_is_refused(named, monkeypatch, cuda):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, named)
    with pytest.raises(SpecError, match="HYPERCOLUMNS_DEVICE"):
        compute_device()


def test_the_record_says_which_device_computed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Some card {device.index}")
    assert computed_by(torch.device("cpu"))["device"] == "cpu"
    assert computed_by(torch.device("cuda", 1))["device"] == "Some card 1"


@pytest.mark.parametrize(("named", "held"), [("cpu", []), ("cuda", ["gpu"])])
def test_stages_hold_a_slot_of_the_limit_while_they_compute_on_an_accelerator(named, held, monkeypatch, cuda):
    taken = []

    @contextlib.contextmanager
    def concurrency(name):
        taken.append(name)
        yield

    monkeypatch.setenv(ENVIRONMENT_VARIABLE, named)
    monkeypatch.setattr(accelerator, "concurrency", concurrency)
    with accelerator.accelerator():
        assert taken == held
