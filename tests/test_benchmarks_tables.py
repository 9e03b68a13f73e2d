"""The tables of docs/performance.md are printed from what was kept."""

from benchmarks.outcome import Check
from benchmarks.tables import as_markdown


def test_figures_of_one_thread_stand_beside_those_of_all_and_misses_are_marked():
    checks = [
        Check("write rate", 1.2345, ">= 0.8", True),
        Check("gather, 1 thread", 247.0, ">= 1000x", False),
        Check("gather, 2 threads", 1211.0, ">= 1000x", True),
        Check("commits, 2 writers", 55.0, "none", True),
    ]
    lines = as_markdown({"checks": [vars(check) for check in checks]}).splitlines()
    assert lines[2:] == [
        "| write rate | >= 0.8 |  | 1.23 |",
        "| gather | >= 1000x | 247 (missed) | 1.21e+03 |",
        "| commits, 2 writers | none |  | 55 |",
    ]
