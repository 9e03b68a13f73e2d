"""The ledger of predictions: one writer, no half mask, no content twice, whatever is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import FormatError, StorageError
from storage.ledger import LEDGER_NAME, Line, opened_ledger
from storage.record_log import append_entry, first_line, read_entries

SHA = "a" * 64
WHOLE = b"whole" * 1000


def test_what_was_written_down_is_read_back_by_the_next_one(tmp_path):
    with opened_ledger(tmp_path / "out") as ledger:
        assert ledger.lines == {}
        ledger.predicted(SHA, "image.png", "model", "image.aaaa.png", WHOLE)
        ledger.rejected("b" * 64, "text.png", "model", "is no image")
    with opened_ledger(tmp_path / "out") as ledger:
        assert ledger.lines == {
            SHA: Line("predicted", "model", "image.aaaa.png"),
            "b" * 64: Line("rejected", "model", reason="is no image"),
        }
        ledger.predicted(SHA, "image.png", "newer", "image.aaaa.png", b"other")
        assert ledger.lines[SHA].model == "newer"
    assert (tmp_path / "out" / "image.aaaa.png").read_bytes() == b"other"


def test_a_second_writer_is_told_that_there_is_one(tmp_path):
    code = """
import sys
from pathlib import Path
from storage.ledger import opened_ledger
with opened_ledger(Path(sys.argv[1])):
    pass
"""
    command = [sys.executable, "-c", code, tmp_path]
    with opened_ledger(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
        assert second.returncode == 1
        assert "StorageError" in second.stderr
        assert "another process writes predictions there now" in second.stderr
        with pytest.raises(StorageError), opened_ledger(tmp_path):
            pass
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)


def test_whoever_is_killed_leaves_no_half_mask_and_the_next_one_finishes_without_a_double(killed_everywhere):
    killed, ended = killed_everywhere("predict", stride=3)
    finished = 0
    for folder in (*killed, ended):
        masks = list(folder.glob("*.png"))
        assert all(mask.read_bytes() == WHOLE for mask in masks)
        with opened_ledger(folder) as ledger:
            done = SHA in ledger.lines
            assert not done or masks, "written down before it is there"
            finished += done
            if not done:
                ledger.predicted(SHA, "image.png", "model", "image.aaaa.png", WHOLE)
        assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["image.aaaa.png"]
        kinds = [entry.kind for entry in read_entries(folder / LEDGER_NAME)[0]]
        assert [kind for kind in kinds if kind != "recovered"] == ["begun", "predicted"]
    assert 1 <= finished < len(killed)


@pytest.mark.parametrize("first", [{}, {"format": ["hypercolumns predictions", 99]}])
def test_a_ledger_that_is_not_ours_is_refused(tmp_path, first):
    (tmp_path / LEDGER_NAME).write_bytes(first_line("begun", first))
    with pytest.raises(FormatError, match="expected a ledger of predictions"), opened_ledger(tmp_path):
        pass


def test_a_ledger_that_was_changed_is_refused(tmp_path):
    with opened_ledger(tmp_path) as ledger:
        ledger.predicted(SHA, "image.png", "model", "image.aaaa.png", WHOLE)
    path = tmp_path / LEDGER_NAME
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"image.png", b"imago.png"))
    with pytest.raises(FormatError), opened_ledger(tmp_path):
        pass
    path.write_bytes(whole)
    append_entry(path, "predicted", {"sha256": SHA})
    with pytest.raises(FormatError, match="a line lacks 'model'"), opened_ledger(tmp_path):
        pass
