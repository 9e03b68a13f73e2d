"""Memory that is freed and wanted again: measured by the pages the system has to find for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from hypercolumns.allocator import keep_freed_memory, release_freed_memory

def fill():
    np.empty(1 << 26, np.uint8).fill(1)

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread():
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()

if sys.argv[1] == "keep":
    assert keep_freed_memory()
fill()
print(faults(fill), faults(in_a_thread))
release_freed_memory()
print(faults(fill))
"""


def run(mode):
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the means")
def test_freed_memory_is_used_again_in_every_thread_and_given_back_when_asked():
    # 64 MiB are 16,384 small pages, or 32 huge ones.
    again, in_a_thread, after_release = run("keep")
    assert again <= 4
    assert in_a_thread <= 40
    assert after_release >= 24
    without, _, _ = run("leave")
    assert without >= 24
