import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage import publish
from storage.errors import AlreadyPublishedError, DiskSpaceError, StorageError
from storage.folders import checked_name, publishing_folder
from storage.publish import ensure_folder, publish_bytes, replace_bytes, writing


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Record the calls that decide durability, with the names of the files they were made on."""
    ensure_folder(tmp_path)
    recorded = []

    def watch(name):
        real = getattr(os, name)

        def wrapper(target, *rest, **options):
            place = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
            recorded.append((name, Path(place).name))
            return real(target, *rest, **options)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("fsync", "fdatasync", "link", "unlink", "rename", "replace", "mkdir"):
        watch(name)
    return recorded


def test_data_is_flushed_before_it_is_named_and_the_folder_after(tmp_path, calls):
    with writing(tmp_path / "file", owner="me") as file:
        file.write(b"bytes")
    partial = "file.me.partial"
    assert calls[:4] == [("fdatasync", partial), ("link", partial), ("unlink", partial), ("fsync", tmp_path.name)]
    assert (tmp_path / "file").read_bytes() == b"bytes"


def test_the_file_has_all_its_bytes_in_the_kernel_when_it_is_flushed(tmp_path, monkeypatch):
    sizes = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (sizes.append(os.fstat(descriptor).st_size), real(descriptor)))
    publish_bytes(tmp_path / "file", b"x" * 100_001)
    assert sizes == [100_001]


def test_a_replaced_file_is_flushed_before_it_takes_the_name(tmp_path, calls):
    replace_bytes(tmp_path / "pointer", b"old")
    calls.clear()
    replace_bytes(tmp_path / "pointer", b"new")
    assert [name for name, _ in calls if name != "unlink"] == ["fdatasync", "replace", "fsync"]
    assert (tmp_path / "pointer").read_bytes() == b"new"


def test_new_folders_are_flushed_into_their_parents(tmp_path, calls):
    ensure_folder(tmp_path / "a" / "b")
    assert calls == [("mkdir", "a"), ("fsync", tmp_path.name), ("mkdir", "b"), ("fsync", "a")]


def test_a_folder_that_somebody_else_made_is_flushed_into_its_parent_before_it_is_used(tmp_path, calls):
    # Whoever made it may have been killed before the flush, or has not come to it yet.
    os.mkdir(tmp_path / "theirs")  # noqa: PTH102 - the call that is recorded
    calls.clear()
    publish_bytes(tmp_path / "theirs" / "file", b"bytes")
    assert calls[0] == ("fsync", tmp_path.name)
    calls.clear()
    publish_bytes(tmp_path / "theirs" / "another", b"bytes")
    assert ("fsync", tmp_path.name) not in calls, "once a process is enough"


def test_what_is_published_is_never_overwritten(tmp_path):
    publish_bytes(tmp_path / "file", b"first")
    with pytest.raises(AlreadyPublishedError, match="theirs stands"):
        publish_bytes(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_raises_publishes_nothing(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path / "file") as file:  # noqa: PT012 - the block is what is tested
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("put", [publish_bytes, replace_bytes])
def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path, monkeypatch, number, put):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(DiskSpaceError, match=r"MB free.*it resumes"):
        put(tmp_path / "file", b"bytes")
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_is_not_called_a_full_one(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="input/output") as raised:
        publish_bytes(tmp_path / "file", b"bytes")
    assert raised.value.errno == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_a_publisher_killed_at_any_line_leaves_the_whole_file_or_none(killed_everywhere):
    killed, ended = killed_everywhere("publish")
    states = set()
    for folder in [*killed, ended]:
        file = folder / "deep" / "file"
        states.add(file.exists())
        if file.exists():
            assert file.read_bytes() == b"whole" * 1000
        else:
            publish_bytes(file, b"again")
    assert states == {True, False}


def test_a_replacer_killed_at_any_line_leaves_the_old_bytes_or_the_new(killed_everywhere):
    killed, ended = killed_everywhere("replace")
    assert {(folder / "pointer").read_bytes() for folder in killed} == {b"old", b"new"}
    assert (ended / "pointer").read_bytes() == b"new"


def test_a_folder_is_published_after_its_files_are_flushed(tmp_path, calls):
    with publishing_folder(tmp_path / "model") as partial:
        (partial / "a").write_bytes(b"a")
        (partial / "b").write_bytes(b"b")
    named = [name if name in {"a", "b", tmp_path.name} else "partial" for _, name in calls]
    order = list(zip([name for name, _ in calls], named, strict=True))
    assert order == [
        ("mkdir", "partial"),
        ("fsync", "a"),
        ("fsync", "b"),
        ("fsync", "partial"),
        ("rename", "partial"),
        ("fsync", tmp_path.name),
    ]


@pytest.mark.parametrize("taken_by", ["folder", "file"])
def test_a_folder_never_replaces_what_has_its_name(tmp_path, taken_by):
    if taken_by == "folder":
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").write_bytes(b"theirs")
    else:
        (tmp_path / "model").write_bytes(b"theirs")
    with pytest.raises(AlreadyPublishedError), publishing_folder(tmp_path / "model") as partial:
        (partial / "ours").write_bytes(b"ours")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").is_dir() == (taken_by == "folder")


def test_a_folder_whose_renaming_fails_otherwise_says_why(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError), publishing_folder(tmp_path / "model") as partial:
        (partial / "ours").write_bytes(b"ours")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\nb", "a b", "x" * 300, "a\0", "é", "a.partial"])
def test_a_name_that_is_not_safe_as_a_folder_is_refused(name):
    with pytest.raises(StorageError, match="expected a key"):
        checked_name(name, "a key")


def test_errors_of_the_disk_numbers_are_the_systems_own():
    assert {errno.ENOSPC, errno.EDQUOT} == publish._NO_SPACE


def test_on_a_disk_that_is_really_full_the_error_says_so_and_a_rerun_succeeds(on_a_tiny_disk):
    run = on_a_tiny_disk(
        """
from storage.errors import DiskSpaceError
from storage.publish import publish_bytes
(disk / "ballast").write_bytes(bytes(150_000))
try:
    publish_bytes(disk / "file", bytes(100_000))
except DiskSpaceError as error:
    print(error, [path.name for path in disk.iterdir()])
(disk / "ballast").unlink()
publish_bytes(disk / "file", bytes(100_000))
print((disk / "file").stat().st_size)
""",
        kib=200,
    )
    assert run.returncode == 0, run.stderr
    assert "the disk is full" in run.stdout
    assert "['ballast']" in run.stdout
    assert run.stdout.endswith("100000\n")


def test_a_limit_on_the_size_of_files_is_said_to_be_one(tmp_path):
    program = (
        "import resource, signal, sys; from pathlib import Path; from storage.publish import publish_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, -1))\n"
        "publish_bytes(Path(sys.argv[1]), bytes(3_000_000))"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert "DiskSpaceError" in run.stderr
    assert "no file may be larger than 1 MB here (3 MB were to be written" in run.stderr
    assert list(tmp_path.iterdir()) == []
