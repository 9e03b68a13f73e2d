"""Fixtures of the storage tests."""

import subprocess
import sys
from pathlib import Path

import pytest

CRASHING = Path(__file__).with_name("crashing.py")


@pytest.fixture
def killed_everywhere(tmp_path):
    """Kill -9 a work of `crashing.py` at every `stride`-th line.

    Returns the folders in which it was killed, and the one in which it came to its end.
    """

    def kill(work, stride=1):
        root = tmp_path / "cases"
        run = subprocess.run([sys.executable, CRASHING, work, root, str(stride)], capture_output=True, text=True, check=True)
        assert int(run.stdout) > 5, "it must have been killed at several places"
        folders = sorted(root.iterdir())
        return folders[:-1], folders[-1]

    return kill


@pytest.fixture
def on_a_tiny_disk():
    """Run Python code in a process of its own whose `disk` is a new file system of so many KiB; returns what it prints."""

    def run(code, kib):
        program = f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        script = f'd=$(mktemp -d) && mount -t tmpfs -o size={kib}k none "$d" && cd "$d" && exec "$0" -c "$1"'
        try:
            probe = subprocess.run(["unshare", "-rm", "sh", "-c", script, "true", ""], capture_output=True, check=False)
        except FileNotFoundError:
            probe = None
        if probe is None or probe.returncode:
            pytest.skip("no file system can be mounted here")
        program += "disk = Path.cwd()\n" + code
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, sys.executable, program], capture_output=True, text=True, check=False
        )

    return run
