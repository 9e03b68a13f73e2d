"""The project folder: where prefect.yaml is, which stays the only source of deployments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Project", "find_project"]

_NAME = "prefect.yaml"


@dataclass(frozen=True)
class Project:
    """A folder with a prefect.yaml.

    Attributes:
        folder: the folder.
        deployments: names of the deployments in the file.
        modules: what their flows are imported from, where that is a module.
    """

    folder: Path
    deployments: tuple[str, ...]
    modules: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The prefect.yaml."""
        return self.folder / _NAME


def find_project(option: Path | None) -> Project:
    """Find prefect.yaml: in the folder that is given, else in the current one, else in the checkout that this code runs from.

    A wheel holds none on purpose: which deployments a team has, and when they run, is the team's to keep in its own folder.

    Raises:
        SpecError: there is none, or it has no deployments.
    """
    from hypercolumns.errors import SpecError

    checkout = Path(__file__).resolve().parents[2]
    places = [option.expanduser()] if option else [Path.cwd(), checkout]
    for place in places:
        folder = place.parent if place.name == _NAME else place
        if (folder / _NAME).is_file():
            return _read(folder.resolve())
    looked = ", ".join(str(place) for place in places)
    raise SpecError(
        f"expected {_NAME}, the list of deployments, found none in {looked}. Remedy: start in your project's folder, or name "
        f"it with --project DIR; a new one begins as a copy of {_NAME} in the project's source"
    )


def _read(folder: Path) -> Project:
    import yaml

    from hypercolumns.errors import SpecError

    path = folder / _NAME
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: expected YAML, got something that cannot be read: {error}") from error
    entries = content.get("deployments") if isinstance(content, dict) else None
    names = [str(entry["name"]) for entry in entries or [] if isinstance(entry, dict) and "name" in entry]
    if not names or len(names) != len(entries or []):
        raise SpecError(f"{path}: expected `deployments`, a list of which each has a name, got {entries!r:.200}")
    entrypoints = [str(entry.get("entrypoint", "")) for entry in entries or []]
    modules = [point.rpartition(".")[0] for point in entrypoints if ":" not in point]
    return Project(folder, tuple(names), tuple(dict.fromkeys(module for module in modules if module)))
