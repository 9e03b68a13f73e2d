"""The corpus of experiment files, through the real command line: what `tests.hostile.runner` runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cli.config import load_experiment
from cli.main import app
from tasks import plan, prepare, stores
from tests.factories import write_folder
from tests.hostile.yaml_cases import REFUSED, TAKEN, Text

# Commands import these when they run: better once than in each case.
PRELOADED = (plan, prepare, stores)
PLACES = {
    "a folder": "Is a directory",
    "a link to itself": "levels of symbolic links",
    "a link to nothing": "No such file",
    "a device without end": "at most 262144 bytes",
    "100 MB": "at most 262144 bytes",
    "a name too long": "File name too long",
}


def names() -> list[str]:
    """List the cases."""
    return [*REFUSED, *TAKEN, *PLACES]


def perform(name: str, folder: Path) -> dict[str, Any]:
    """Plan an experiment from the file, and tell how the command ended; of a sound file, tell what it holds."""
    os.chdir(folder)
    path = folder / "bad.yaml"
    if name in PLACES:
        return _planned(_put(name, path), ()) | _left(folder)
    text: Text = (REFUSED | TAKEN)[name]
    root = write_folder(folder / "data", splits={"train": 1, "val": 1}) if b"ROOT" in text.data else Path("nowhere")
    path.write_bytes(text.data.replace(b"ROOT", str(root).encode()))
    if name in REFUSED:
        return _planned(path, text.overrides) | _left(folder)
    spec = load_experiment(path, text.overrides).model_dump()
    found = {}
    for field, _ in text.holds:
        value: Any = spec
        for part in field.split("."):
            value = value[part]
        found[field] = value
    return {"found": found} | _left(folder)


def _put(name: str, path: Path) -> Path:
    if name == "a folder":
        path.mkdir()
    elif name == "a link to itself":
        path.symlink_to(path)
    elif name == "a link to nothing":
        path.symlink_to(path.with_name("gone"))
    elif name == "a device without end":
        path.symlink_to("/dev/zero")
    elif name == "100 MB":
        path.write_bytes(b"name: a\n" * 12_500_000)
    else:
        return path.with_name("n" * 300 + ".yaml")
    return path


def _planned(path: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    ran = CliRunner().invoke(app, ["plan", str(path), *overrides, "--workspace", str(path.with_name("w")), "--json"])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return {"code": ran.exit_code, "out": ran.stdout, "err": ran.stderr}


def _left(folder: Path) -> dict[str, Any]:
    return {"left": [path.name for path in folder.iterdir() if path.name not in ("bad.yaml", "data")]}
