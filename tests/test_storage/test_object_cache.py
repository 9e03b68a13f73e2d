"""The cache of objects: bounded, shared, and nothing is lost with it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.object_cache import ObjectCache


def held(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_is_added_is_found_by_another_and_forgotten_with_its_pieces(tmp_path):
    cache = ObjectCache(tmp_path / "cache", 1000)
    assert cache.read("a") is None
    cache.add("a", b"all of it")
    cache.add("a.7", b"a piece")
    cache.add("b", b"something else")
    other = ObjectCache(tmp_path / "cache", 1000)
    assert other.read("a") == b"all of it"
    assert other.find("a.7").read_bytes() == b"a piece"
    other.drop("a")
    assert cache.read("a") is cache.read("a.7") is None
    assert cache.read("b") == b"something else"


def test_the_least_recently_used_go_when_the_bound_is_reached(tmp_path):
    cache = ObjectCache(tmp_path, 1000)
    for number in range(10):
        cache.add(f"{number}", bytes(100))
        os.utime(tmp_path / f"{number}", (1000 + number,) * 2)
    assert cache.read("0") is not None, "used now, so it stays"
    cache.add("10", bytes(100))
    left = {path.name for path in tmp_path.iterdir()}
    assert {"0", "10", "9"} <= left
    assert not {"1", "2"} & left
    assert held(tmp_path) <= 1000


def test_it_holds_no_more_than_the_bound_and_a_sixteenth_whatever_is_added(tmp_path):
    cache = ObjectCache(tmp_path, 16_000)
    for number in range(300):
        cache.add(f"{number}", bytes(50 + number * 7 % 500))
        assert held(tmp_path) <= 16_000 + 1_000 + 550
    cache.add("too large", bytes(16_001))
    assert cache.read("too large") is None


def test_finished_files_are_taken_over_and_those_that_are_too_large_are_not_kept(tmp_path):
    cache = ObjectCache(tmp_path / "cache", 1000)
    for size, kept in ((800, True), (1001, False)):
        file = tmp_path / f"file of {size}"
        file.write_bytes(bytes(size))
        cache.adopt(f"{size}", file)
        assert not file.exists()
        assert (cache.read(f"{size}") is not None) == kept


def test_what_writers_that_died_left_goes_after_a_while(tmp_path):
    cache = ObjectCache(tmp_path, 1000)
    abandoned, written_now = cache.new_file(), cache.new_file()
    for path in (abandoned, written_now):
        path.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 4000,) * 2)
    cache.add("a", bytes(100))
    assert not abandoned.exists()
    assert written_now.exists()


def test_a_disk_that_takes_nothing_is_no_error(tmp_path, monkeypatch):
    cache = ObjectCache(tmp_path, 1000)

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.add("a", b"x")
    assert cache.read("a") is None
    assert list(tmp_path.iterdir()) == []


def test_an_open_entry_is_read_on_after_it_was_removed(tmp_path):
    cache = ObjectCache(tmp_path, 1000)
    cache.add("a", b"whole")
    with cache.find("a").open("rb") as file:
        cache.drop("a")
        assert file.read() == b"whole"


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from storage.object_cache import ObjectCache
cache, wrong = ObjectCache(Path(sys.argv[2]), 40_000), 0
for number in range(600):
    name = f"{number * 7 % 97}"
    data = cache.read(name)
    if data is None:
        cache.add(name, name.encode() * (1000 // len(name)))
    elif data != name.encode() * (1000 // len(name)):
        wrong += 1
print(wrong)
"""


def test_several_processes_share_it_and_read_whole_entries_only(tmp_path):
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, repository, tmp_path]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [run.communicate(timeout=60)[0] for run in runs] == ["0\n"] * 3
    assert held(tmp_path) <= 40_000 * (1 + 3 / 8) + 3000


def test_who_comes_while_another_makes_room_does_not_wait(tmp_path, monkeypatch):
    busy, go_on = threading.Event(), threading.Event()
    trim = ObjectCache._trim

    def slowly(self):
        busy.set()
        go_on.wait(10)
        trim(self)

    monkeypatch.setattr(ObjectCache, "_trim", slowly)
    thread = threading.Thread(target=ObjectCache(tmp_path, 1600).add, args=("a", bytes(1560)))
    thread.start()
    busy.wait(10)
    monkeypatch.setattr(ObjectCache, "_trim", trim)
    ObjectCache(tmp_path, 1600).add("b", bytes(60))
    assert held(tmp_path) == 1620
    go_on.set()
    thread.join()
    assert held(tmp_path) == 60


@pytest.mark.parametrize(("text", "bound"), [("", 20 * 10**9), ("12345", 12345)])
def test_the_bound_is_the_environment_s(tmp_path, monkeypatch, text, bound):
    monkeypatch.setenv("HYPERCOLUMNS_CACHE_BYTES", text)
    assert ObjectCache(tmp_path)._max_bytes == bound
