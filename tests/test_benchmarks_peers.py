"""What the comparison with other ways rests on: the clock, the scores, and that nobody is left out in silence."""

import re
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from benchmarks.peers import processes
from benchmarks.peers.ledger import Ledger
from benchmarks.peers.ours import Spent, dense_epochs
from benchmarks.peers.presenting import draw_chart, judge, markdown_table
from benchmarks.peers.processes import Peer, run_peer
from benchmarks.peers.scene import VOID, read_labels
from benchmarks.peers.scoring import Outcome, Point, Truth, read_outcome

NAMES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")


@pytest.fixture
def camvid(tmp_path):
    """Two val photographs with labels 0 to 10 and void 11, in the layout of the real data."""
    root = tmp_path / "camvid"
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(generator.integers(0, 255, (6, 8, 3), np.uint8)).save(root / "images" / split / f"{number}.jpg")
            Image.fromarray(generator.integers(0, 12, (6, 8), np.uint8)).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return root


def test_masks_are_scored_over_the_whole_split_without_void(camvid, tmp_path):
    predicted = np.random.default_rng(1).integers(0, 11, (2, 6, 8), np.uint8)
    ledger = Ledger(tmp_path, time.time(), 10)
    ledger.mark(predicted, seconds=3.0, name="guess")
    outcome = read_outcome(tmp_path, Truth(camvid), "done")
    truth = np.stack([np.array(Image.open(camvid / "masks" / "val" / f"{number}.png")) for number in range(2)])
    matrix = confusion_matrix(truth[truth != 11], predicted[truth != 11], labels=range(11))
    present = matrix.sum(1) > 0
    iu = (np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix)))[present].mean()
    assert outcome.points == [Point(3.0, pytest.approx(iu), "guess")]
    assert not list(tmp_path.glob("*.npy"))


def test_train_labels_keep_their_classes_and_lose_void(camvid):
    path = camvid / "masks" / "train" / "0.png"
    stored = np.array(Image.open(path))
    found = read_labels(path)
    np.testing.assert_array_equal(found, np.where(stored == 11, VOID, stored))


def test_the_clock_stands_still_while_masks_are_predicted(tmp_path):
    ledger = Ledger(tmp_path, time.time() - 5, 10)

    def slow():
        time.sleep(0.5)
        yield np.zeros((2, 2), np.uint8)

    before = ledger.seconds
    ledger.mark(slow())
    assert ledger.seconds - before < 0.4


def test_the_score_is_asked_for_before_each_time_goes_by_and_never_twice(tmp_path):
    ledger = Ledger(tmp_path, time.time(), 600)
    assert not ledger.due(1)
    assert ledger.due(31)
    assert not ledger.due(31)
    assert ledger.due(601)
    assert ledger.over


def test_the_best_score_by_a_time_looks_at_earlier_models_only():
    outcome = Outcome("done", [Point(10, 0.3), Point(20, 0.2), Point(40, 0.5)])
    assert outcome.best_by(5) is None
    assert outcome.best_by(30) == 0.3
    assert outcome.best_by(40) == 0.5


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        (Peer("no such module", "no_such_peer"), "failed: .*no_such_peer"),
        (Peer("no such package", "networks", packages=("file:///no/such/package",)), "cannot be installed: "),
        (Peer("too slow", "slow", limit_seconds=0.5), "stopped at its limit"),
    ],
)
def test_a_peer_that_cannot_be_had_fails_or_is_late_is_reported_with_its_reason(peer, status, camvid, tmp_path, monkeypatch):
    package = tmp_path / "benchmarks" / "peers"
    package.mkdir(parents=True)
    (package / "slow.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    monkeypatch.setattr(processes, "_ROOT", tmp_path)
    (tmp_path / "requirements.lock").touch()
    start = time.perf_counter()
    outcome = run_peer(peer, tmp_path / "work", camvid, 0.0, Truth(camvid))
    assert time.perf_counter() - start < 30
    assert re.match(status, outcome.status), outcome.status
    assert outcome.points == []


def test_the_table_names_every_peer_and_the_targets_compare_with_the_best_other(tmp_path):
    outcomes = {
        "ours": Outcome("done", [Point(20, 0.6)], {"prediction_ms": 20.0}),
        "quick": Outcome("done", [Point(5, 0.3)]),
        "gone": Outcome("cannot be installed: no | such"),
    }
    labels = {name: f"the {name} one" for name in outcomes}
    table = markdown_table(outcomes, labels, [10, 30])
    assert [line.split(" | ")[1:3] for line in table.splitlines()[2:]] == [["", "60.0"], ["30.0", "30.0"], ["", ""]]
    assert "cannot be installed: no / such" in table
    checks = judge(outcomes, [10, 30])
    assert [check.passed for check in checks] == [False, True, True]
    draw_chart(outcomes, labels, tmp_path / "a.svg", 30)
    draw_chart(outcomes, labels, tmp_path / "b.svg", 30)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "the gone one" not in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_python_is_the_projects_own_where_no_packages_are_named(tmp_path):
    assert str(processes._environment(Peer("plain", "networks"), tmp_path)) == sys.executable


@pytest.mark.parametrize(
    ("limit", "epoch", "found"),
    [(30, 10, (0, False)), (100, 10, (5, False)), (100, 100, (0, False)), (200, 10, (11, True)), (600, 1, (30, True))],
)
def test_as_many_epochs_are_planned_as_end_before_the_score_is_asked_for(limit, epoch, found):
    assert dense_epochs(limit, Spent(extract_sample=25, train=7, rest=15), epoch) == found
