"""The order in which one publish reaches the disk, by the system calls that the kernel saw."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import runpy, sys
from pathlib import Path
work = runpy.run_path(sys.argv[1])
root = Path(sys.argv[2])
store = work["opened"](root, work["LAYERS"][:2])
(root / "begin").touch()
work["fill"](store.claim(work["keys_of"](0, 4), work["LAYERS"][:2]))
(root / "end").touch()
"""


@pytest.fixture
def traced(tmp_path):
    """Return the system calls of one publish of two layers, in order, as (call, what it was called with)."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    trace, extracting = tmp_path / "trace", Path(__file__).with_name("extracting.py")
    calls = "trace=openat,link,linkat,unlink,unlinkat,rename,renameat,renameat2,fsync,fdatasync,write,pwrite64"
    command = ["strace", "-f", "-y", "-s", "300", "-e", calls, "-o", trace, sys.executable, "-c", PROGRAM, extracting, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode and "ptrace" in run.stderr.lower():
        pytest.skip("strace may trace nothing here")
    assert run.returncode == 0, run.stderr
    # A call of one thread that another interrupts is told in two lines; what counts is when it had returned.
    begun, seen = {}, []
    for line in trace.read_text().splitlines():
        process, _, told = line.partition(" ")
        told = told.strip()
        if told.endswith("<unfinished ...>"):
            begun[process] = told.removesuffix("<unfinished ...>")
            continue
        if told.startswith("<..."):
            told = begun.pop(process, "") + re.sub(r"^<\.\.\. \w+ resumed>", "", told)
        if re.search(r"\) += \d", told):
            seen.append((told.partition("(")[0], told))
    first = next(place for place, (_, told) in enumerate(seen) if f'{tmp_path}/begin"' in told)
    last = next(place for place, (_, told) in enumerate(seen) if f'{tmp_path}/end"' in told)
    return seen[first + 1 : last]


def places(traced, calls, *parts):
    return [place for place, (call, told) in enumerate(traced) if call in calls and all(part in told for part in parts)]


def test_data_come_before_names_names_before_the_record_and_the_record_before_it_is_counted(traced):
    link, flush = ("link", "linkat"), ("fsync", "fdatasync")
    record = places(traced, link, "/journal/records/0000000003.json")
    assert len(record) == 1
    layers = ("features.3", "features.6.expand1x1+features.6.expand3x3")
    for layer in layers:
        named = places(traced, link, f"/{layer}/c.0.0.0.0")
        assert len(named) == 1
        written = places(traced, ("write", "pwrite64"), f"/{layer}/c.0.0.0.0.")
        flushed = places(traced, ("fdatasync",), f"/{layer}/c.0.0.0.0.")
        assert written
        assert max(written) < min(flushed) < named[0], "its bytes are on the disk before it has its name"
        folder = [place for place in places(traced, ("fsync",), f"/{layer}>") if named[0] < place < record[0]]
        assert folder, "its name is on the disk before the record has its own"
    written = places(traced, ("write",), "/journal/records/0000000003.json.")
    flushed = places(traced, flush, "/journal/records/0000000003.json.")
    assert max(written) < min(flushed) < record[0]
    safe = [place for place in places(traced, ("fsync",), "/journal/records>") if place > record[0]]
    counted = [place for place in places(traced, ("write", "pwrite64"), "/journal/index.sqlite") if place > record[0]]
    assert min(safe) < min(counted), "the record's name is on the disk before anything counts it"
    derived = [place for place in places(traced, ("rename", "renameat", "renameat2"), "/zarr.json") if place > record[0]]
    assert min(safe) < min(derived)
    released = places(traced, ("unlink", "unlinkat"), "/journal/leases/")
    assert max(released) > min(safe), "the lease is given back last"
