"""Where compiled kernels are kept, and that they are made anew when their sources change. In processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hypercolumns
from hypercolumns.kernels import team

PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from hypercolumns.geometry import axis_map
from hypercolumns.kernels import compiling, team
from hypercolumns.kernels.plans import Widening, plan_taps
from hypercolumns.kernels.widening import add_widened
assert team.__file__.startswith(sys.argv[1]), team.__file__
taps = plan_taps([axis_map(4, 2, alignment="resize")], 4, 1)
out = torch.empty(4, 4, 3)
start = time.perf_counter()
add_widened(out, [torch.ones(2, 2, 3)], Widening(taps, taps), 0, torch.ones(3))
print(float(out.sum()), compiling._can_keep(), time.perf_counter() - start)
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the library, whose folder may be changed."""
    source = Path(hypercolumns.__file__).parent
    shutil.copytree(source, tmp_path / "there" / "hypercolumns", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "there"


def run(package, program=PROGRAM, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(package)],
        capture_output=True,
        text=True,
        check=True,
        cwd=package,
        env={**inherited, **environment},
    )
    total, kept, _ = done.stdout.split()
    assert float(total) == 4 * 4 * 3 * 2
    return kept == "True"


def kept_in(folder):
    return sorted(path for path in folder.rglob("*.nbc") if path.name.startswith("widening"))


def test_a_kernel_is_compiled_once_and_again_when_any_source_of_the_kernels_changes(package):
    assert run(package)
    (first,) = kept_in(package)
    stamp = first.stat().st_mtime_ns
    run(package)
    assert kept_in(package) == [first]
    assert first.stat().st_mtime_ns == stamp
    lanes = package / "hypercolumns/kernels/lanes.py"
    lanes.write_text(lanes.read_text() + "\n# Changed.\n")
    run(package)
    assert len(kept_in(package)) == 2, "Numba alone would have looked at the kernel's own file only"


def test_functions_that_kernels_call_by_their_address_are_kept_too(package):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from hypercolumns.kernels import compiling, fine, tiles
print(12 * 8 if tiles.add_rows.address and fine._READERS[torch.float16].address else 0, compiling._can_keep(), 0)
"""
    assert run(package, program=program)
    first = {path: path.stat().st_mtime_ns for path in package.rglob("*.nbc")}
    assert {path.name.split("-")[0] for path in first} == {"tiles.add_rows", "fine._reading.locals.read_map"}
    assert run(package, program=program)
    assert {path: path.stat().st_mtime_ns for path in package.rglob("*.nbc")} == first


def test_kernels_are_kept_where_numba_is_told_to(package, tmp_path):
    assert run(package, NUMBA_CACHE_DIR=str(tmp_path / "elsewhere"))
    assert len(kept_in(tmp_path / "elsewhere")) == 1
    assert not kept_in(package)


def test_where_nothing_can_be_kept_a_process_compiles_its_own(package, tmp_path):
    # A file in the place of the folder stops root too.
    (tmp_path / "a file").write_text("")
    assert not run(package, NUMBA_CACHE_DIR=str(tmp_path / "a file" / "below"))
    assert not kept_in(package)


def test_a_file_that_a_crash_cut_short_and_a_full_disk_cost_a_compilation_and_nothing_else(package, tmp_path):
    assert run(package)
    for path in package.rglob("*.nb?"):
        path.write_bytes(b"")
    assert run(package)
    limited = PROGRAM.replace(
        "import torch\n", "import torch, resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    )
    assert limited != PROGRAM
    assert run(package, program=limited, NUMBA_CACHE_DIR=str(tmp_path / "small"))


@pytest.mark.skipif(
    not list((Path(torch.__file__).parent / "lib").glob("libgomp*")), reason="torch was built with another OpenMP"
)
def test_the_threads_of_torch_s_own_are_found():
    """Else all would be done by one thread, as right and half as fast, and nobody would notice."""
    assert team._openmp() is not None
