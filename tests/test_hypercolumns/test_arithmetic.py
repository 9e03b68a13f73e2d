"""Arithmetic that is left open is settled by what the processor has, before anything is named by it."""

import platform
from pathlib import Path

import pytest

from hypercolumns import arithmetic
from hypercolumns.arithmetic import fast_precision, multiplies_bfloat16, settle, settle_experiment
from hypercolumns.specs import ExperimentSpec, SparseTrainSpec, TrainSpec

_CPUS = Path("/proc/cpuinfo")


@pytest.mark.skipif(platform.machine() != "x86_64" or not _CPUS.exists(), reason="reads Linux's list of x86 features")
def test_products_of_bfloat16_are_found_where_the_system_lists_them():
    flags = next(line for line in _CPUS.read_text().splitlines() if line.startswith("flags")).split()
    assert multiplies_bfloat16() == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.parametrize(("has", "faster"), [(True, "bfloat16"), (False, "float32")])
def test_only_what_is_left_open_depends_on_the_machine(monkeypatch, has, faster):
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: has)
    assert [settle(wanted) for wanted in ("automatic", "float32", "bfloat16")] == [faster, "float32", "bfloat16"]
    assert [fast_precision(trained) for trained in ("float32", "bfloat16")] == ["float32", faster]
    open_spec = ExperimentSpec(pretrain=SparseTrainSpec(precision="automatic", epochs=3), train=TrainSpec(precision="bfloat16"))
    found = settle_experiment(open_spec)
    assert (found.pretrain.precision, found.pretrain.epochs, found.train) == (faster, 3, open_spec.train)
