import json
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.canonical import canonical_bytes, digest
from storage.errors import AlreadyPublishedError, DiskSpaceError, FormatError, StorageError
from storage.record_log import append_entry
from storage.runs import append, create_run, list_runs, new_run_id, read_run

ROOT = Path(__file__).parents[2]
STARTED = {"spec": {"seed": 7}, "keys": {"store": "1f"}, "commit": "abc"}


@pytest.fixture
def folder(tmp_path):
    return create_run(tmp_path / "runs", "20261120-104629-camvid-4f2a", STARTED)


def record(folder):
    return folder / "record.jsonl"


def in_another_process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT)


def test_an_identifier_sorts_by_utc_time_and_is_safe_as_a_name():
    now = datetime(2026, 11, 20, 11, 46, 29, tzinfo=timezone(timedelta(hours=1)))
    assert re.fullmatch(r"20261120-104629-cam-vid-2-[0-9a-f]{4}", new_run_id(" Cam/Vid_2!", now))
    assert re.fullmatch(r"20261120-104629-run-[0-9a-f]{4}", new_run_id("日本", now))
    assert len({new_run_id("a", now) for _ in range(20)}) > 15
    assert len(new_run_id("x" * 500, now)) < 70
    with pytest.raises(StorageError, match="time with its zone"):
        new_run_id("a", datetime(2026, 1, 1))


def test_a_run_reads_as_it_was_told(folder):
    append(folder, "stage", {"name": "extract", "seconds": 6.5, "keys": {"samples": "2e"}})
    append(folder, "stage", {"name": "train"})
    append(folder, "epoch", {"loss": 0.5})
    append(folder, "metrics", {"mean_iu": 0.5, "pixel_accuracy": 0.9})
    append(folder, "metrics", {"mean_iu": 0.6})
    append(folder, "artefact", {"name": "report", "path": "runs/x/report é.html"})
    view = read_run(folder)
    assert view.status == "running"
    entry = append(folder, "finished", {})
    view = read_run(folder)
    assert (view.status, view.reason, view.run_id, view.torn_bytes) == ("finished", "", folder.name, 0)
    assert view.spec == {"seed": 7}
    assert view.keys == {"store": "1f", "samples": "2e"}
    assert view.metrics == {"mean_iu": 0.6, "pixel_accuracy": 0.9}
    assert view.artefacts == {"report": "runs/x/report é.html"}
    assert view.timings == {"extract": 6.5}
    assert [one.sequence for one in view.entries] == list(range(8))
    assert view.entries[3].data == {"loss": 0.5}
    assert view.entries[-1] == entry
    assert view.entries[0].data["commit"] == "abc"
    assert view.started_at <= view.updated_at <= datetime.now(UTC)
    assert view.started_at.utcoffset() == timedelta(0)


def test_each_line_is_json_chained_to_the_one_before_by_its_digest(folder):
    append(folder, "epoch", {"text": "two\nlines"})
    lines = [json.loads(line) for line in record(folder).read_text("utf-8").split("\n")[:-1]]
    assert [line["previous"] for line in lines] == ["", lines[0]["digest"]]
    for line in lines:
        claimed = line.pop("digest")
        assert claimed == digest(line, 32)
        assert line["process"][1] == os.getpid()


def test_a_failed_run_says_why_until_it_is_resumed(folder):
    append(folder, "failed", {"error": "disk full"})
    assert (read_run(folder).status, read_run(folder).reason) == ("failed", "disk full")
    append(folder, "resumed", {})
    assert (read_run(folder).status, read_run(folder).reason) == ("running", "")


def test_a_run_whose_process_was_killed_is_unknown_until_another_goes_on(tmp_path):
    code = """
import sys, time
from pathlib import Path
from storage.runs import create_run
create_run(Path(sys.argv[1]), "a", {})
time.sleep(60)
"""
    process = in_another_process(code, tmp_path)
    while not (tmp_path / "a").exists():
        assert process.poll() is None
    assert read_run(tmp_path / "a").status == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_run(tmp_path / "a").status == "unknown"
    append(tmp_path / "a", "resumed", {})
    assert read_run(tmp_path / "a").status == "running"


def test_a_process_that_cannot_be_asked_may_live(folder, monkeypatch):
    def refuse(process, signal_number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert read_run(folder).status == "running"
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert read_run(folder).status == "running"


def test_a_run_is_never_created_twice(folder):
    before = record(folder).read_bytes()
    with pytest.raises(AlreadyPublishedError):
        create_run(folder.parent, folder.name, {})
    assert record(folder).read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("Stage", {}, "a kind of lower-case"),
        ("started", {}, "other than started"),
        ("stage", {}, "a name"),
        ("stage", {"name": "a", "seconds": "6"}, "seconds to be a number"),
        ("artefact", {"name": "a"}, "a path relative"),
        ("artefact", {"name": "a", "path": "/etc/passwd"}, "a path relative"),
        ("artefact", {"name": "a", "path": "x/../../y"}, "a path relative"),
        ("failed", {}, "an error text"),
        ("epoch", {"keys": [1]}, "keys to be a mapping"),
    ],
)
def test_a_line_that_is_not_what_its_kind_needs_is_refused(folder, kind, data, message):
    with pytest.raises(StorageError, match=message):
        append(folder, kind, data)
    assert len(read_run(folder).entries) == 1


def test_a_line_that_is_no_json_is_refused(folder):
    with pytest.raises(FormatError):
        append(folder, "metrics", {"loss": float("nan")})
    assert len(read_run(folder).entries) == 1


def test_no_run_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for missing in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(StorageError, match="expected a record"):
            read_run(missing)
        with pytest.raises(StorageError, match="expected a record"):
            append(missing, "epoch", {})


def test_every_torn_last_line_is_left_out_and_reported_and_the_next_append_clears_it(folder):
    append(folder, "epoch", {"number": 1})
    whole = record(folder).read_bytes()
    append(folder, "epoch", {"number": 2})
    line = record(folder).read_bytes()[len(whole) :]
    torn = [line[:end] for end in range(1, len(line))] + [bytes(50), bytes(20) + line[20:], line[:40] + bytes(9) + b"\n"]
    for tail in torn:
        record(folder).write_bytes(whole + tail)
        view = read_run(folder)
        assert (len(view.entries), view.torn_bytes) == (2, len(tail))
    append(folder, "epoch", {"number": 3})
    view = read_run(folder)
    assert [entry.kind for entry in view.entries] == ["started", "epoch", "recovered", "epoch"]
    assert view.entries[2].data == {"dropped_bytes": len(torn[-1])}
    assert view.torn_bytes == 0


def test_every_flipped_bit_is_detected_and_its_line_named(folder):
    append(folder, "epoch", {"number": 1})
    append(folder, "finished", {})
    data = record(folder).read_bytes()
    for place in range(0, len(data) - 1, 3):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 7
        record(folder).write_bytes(damaged)
        with pytest.raises(FormatError, match=r"line|another's"):
            read_run(folder)
    damaged = data.replace(b'"number":1', b'"number":2')
    record(folder).write_bytes(damaged)
    with pytest.raises(FormatError, match="line 2 is not what was written"):
        read_run(folder)


@pytest.mark.parametrize("order", [[0, 2], [0, 1, 1, 2], [0, 2, 1], [1, 2], [0, 1, 3]])
def test_a_lost_repeated_or_moved_line_is_detected(folder, order):
    for number in range(3):
        append(folder, "epoch", {"number": number})
    lines = record(folder).read_bytes().splitlines(keepends=True)
    record(folder).write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(FormatError, match=r"line \d does not follow"):
        read_run(folder)


def forged(**changes):
    document = {"sequence": 0, "time": "2026-11-20T00:00:00+00:00", "kind": "started", "process": ["h", 1], "previous": ""}
    document |= {"data": {"run_id": "a", "format": ["hypercolumns run record", 1]}} | changes
    return canonical_bytes({**document, "digest": digest(document, 32)}) + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        forged(kind=3),
        forged(data=[]),
        forged(process=["h", "1"]),
        forged(process=["h", -1]),
        forged(time="yesterday"),
        forged(sequence="0"),
        forged(data={"run_id": "b"}),
        forged(data={"run_id": "a", "format": ["hypercolumns run record", 2]}),
        forged(data={"run_id": "a", "format": ["hypercolumns run record", 1], "spec": []}),
        forged(kind="epoch"),
        b"",
    ],
    ids=range(14),
)
def test_a_record_that_is_not_ours_is_refused(tmp_path, line):
    (tmp_path / "a").mkdir()
    record(tmp_path / "a").write_bytes(line)
    with pytest.raises(FormatError, match=r"record\.jsonl"):
        read_run(tmp_path / "a")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0aé\\', max_size=40).map(str.encode))
def test_no_bytes_at_all_make_the_reader_fail_otherwise(tmp_path, data):
    (tmp_path / "a").mkdir(exist_ok=True)
    record(tmp_path / "a").write_bytes(data + b"\n")
    with pytest.raises(FormatError):
        read_run(tmp_path / "a")


def test_a_record_of_torn_bytes_alone_cannot_be_appended_to(tmp_path):
    (tmp_path / "a").mkdir()
    record(tmp_path / "a").write_bytes(b"torn")
    with pytest.raises(FormatError, match="4 torn bytes"):
        append(tmp_path / "a", "epoch", {})


def test_runs_are_listed_newest_first_with_the_broken_ones_and_why(tmp_path):
    for run_id in ("20260101-000000-a-0000", "20260103-000000-c-0000", "20260102-000000-b-0000"):
        create_run(tmp_path, run_id, {})
    record(tmp_path / "20260102-000000-b-0000").write_bytes(b"rubbish\n")
    (tmp_path / "20260104-000000-d-0000").mkdir()
    (tmp_path / "20260105-000000-e-0000" / "record.jsonl").mkdir(parents=True)
    (tmp_path / "20260106-000000-f-0000.12.partial").mkdir()
    (tmp_path / "file").write_text("")
    views = list_runs(tmp_path)
    assert [view.run_id[:8] for view in views] == ["20260105", "20260104", "20260103", "20260102", "20260101"]
    assert [view.status for view in views] == ["broken", "broken", "running", "broken", "running"]
    assert "line 1" in views[3].reason
    assert "expected a record" in views[1].reason
    assert list_runs(tmp_path / "none") == []


def test_processes_and_threads_append_to_one_run_without_losing_or_mixing_lines(folder):
    code = """
import sys
from pathlib import Path
from storage.runs import append
for number in range(40):
    append(Path(sys.argv[1]), "epoch", {"writer": int(sys.argv[2]), "number": number, "ballast": "x" * 5000})
"""
    processes = [in_another_process(code, folder, writer) for writer in range(2)]

    def write(writer):
        for number in range(40):
            append(folder, "epoch", {"writer": writer, "number": number})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in (2, 3)]
    for thread in threads:
        thread.start()
    while any(process.poll() is None for process in processes):
        read_run(folder)
    for thread in threads:
        thread.join()
    assert [process.returncode for process in processes] == [0, 0]
    view = read_run(folder)
    assert view.torn_bytes == 0
    assert all(entry.kind != "recovered" for entry in view.entries)
    for writer in range(4):
        assert [entry.data["number"] for entry in view.entries[1:] if entry.data["writer"] == writer] == list(range(40))


def test_a_line_is_flushed_before_the_append_returns(folder, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(os.fstat(descriptor).st_size), real(descriptor)))
    append(folder, "epoch", {})
    assert flushed == [record(folder).stat().st_size]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_record_as_it_was(folder, monkeypatch, call):
    before = record(folder).read_bytes()
    real = os.write
    calls = []

    def full(descriptor, *data):
        calls.append(descriptor)
        if data and len(calls) == 1:
            return real(descriptor, data[0][:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(DiskSpaceError, match="disk is full"):
            append(folder, "epoch", {})
    assert record(folder).read_bytes() == before
    append(folder, "epoch", {})
    assert len(read_run(folder).entries) == 2


def test_short_writes_are_continued(folder, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    append_entry(record(folder), "epoch", {"number": 1})
    assert read_run(folder).entries[1].data == {"number": 1}


def test_an_appender_killed_at_any_line_leaves_the_line_or_nothing_of_it(killed_everywhere):
    killed, ended = killed_everywhere("append", stride=5)
    counts = set()
    for folder in [*killed, ended]:
        view = read_run(folder / "run")
        counts.add(len(view.entries))
        assert view.torn_bytes == 0
        append(folder / "run", "resumed", {})
        assert read_run(folder / "run").status == "running"
    assert counts == {1, 2}


def test_a_creator_killed_at_any_line_leaves_the_run_or_nothing_that_is_listed(killed_everywhere):
    killed, ended = killed_everywhere("create", stride=3)
    states = set()
    for folder in [*killed, ended]:
        views = list_runs(folder)
        states.add(len(views))
        assert all(view.spec == {"seed": 1} and view.status in {"unknown", "running"} for view in views)
        if not views:
            create_run(folder, "run", {"spec": {"seed": 1}})
        assert len(list_runs(folder)) == 1
    assert states == {0, 1}
