"""Compact a feature store and be killed meanwhile. Run as a program by the tests:

- `compacting.py kill FINISHED ROOT STRIDE OFFSET`: copy the stores of FINISHED into folders below ROOT, compact each in a
  forked child that is killed by -9 at a later line of `storage`; the last one came to its end. Prints how many were killed.
- `compacting.py once STORE`: compact a store; print how many images were moved.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from storage.compaction import compact_store
from storage.inspection import list_stores


def killed_at(root, fatal_line):
    seen = 0

    def on_line(frame, event, argument):
        nonlocal seen
        if "/storage/" not in frame.f_code.co_filename or "/site-packages/" in frame.f_code.co_filename:
            return None
        if event == "line":
            if seen == fatal_line:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return on_line

    (path,) = list_stores(root)
    sys.settrace(on_line)
    compact_store(path, rewrite_rows=True)
    sys.settrace(None)
    os._exit(0)


def kill(finished, root, stride, offset):
    for case in range(100_000):
        shutil.copytree(finished, root / f"{case:05d}")
        process = os.fork()
        if process == 0:
            killed_at(root / f"{case:05d}", offset + case * stride)
        if os.waitpid(process, 0)[1] == 0:
            sys.stdout.write(str(case))
            return


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.stdout.write(str(compact_store(Path(sys.argv[2]), rewrite_rows=True).rows))
