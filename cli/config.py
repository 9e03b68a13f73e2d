"""Experiment files: YAML with `key.path=value` overrides, checked against the specs; what does not fit is named by its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from hypercolumns.box_experiments import BoxExperimentSpec, CompareSpec
    from hypercolumns.nights import NightSpec
    from hypercolumns.specs import ExperimentSpec

SpecT = TypeVar("SpecT", bound="BaseModel")

__all__ = ["load_box_experiment", "load_comparison", "load_experiment", "load_night"]

_NIGHT = "nightly"


def load_experiment(path: Path | None, overrides: Sequence[str]) -> ExperimentSpec:
    """Read an experiment file and apply overrides.

    Args:
        path: The YAML file; None starts from the defaults.
        overrides: `key.path=value`, the value in YAML: `head.hidden=64`, `store.views=[identity, hflip]`.

    Raises:
        SpecError: the file is missing or not YAML, or something in it is unknown or out of range.
    """
    value = _values(path, overrides)
    value.pop(_NIGHT, None)
    return _checked(value, path)


def load_night(path: Path | None, overrides: Sequence[str]) -> tuple[ExperimentSpec, NightSpec]:
    """Read an experiment file that may have a section `nightly`: what a night of it is told. Other commands pass it over.

    Args:
        path: The YAML file; None starts from the defaults.
        overrides: As for `load_experiment`, and `nightly.promotion.min_gain=0.01`.

    Raises:
        SpecError: the file is missing or not YAML, or something in it is unknown or out of range.
    """
    from hypercolumns.nights import NightSpec
    from hypercolumns.specs import parse_spec

    value = _values(path, overrides)
    night = parse_spec(NightSpec, value.pop(_NIGHT, {}))
    return _checked(value, path), night


def load_box_experiment(path: Path | None, overrides: Sequence[str], task: str) -> BoxExperimentSpec:
    """Read an experiment inside boxes and apply overrides; other arguments as of `load_experiment`.

    Args:
        path: The YAML file; None starts from the defaults.
        overrides: `key.path=value`.
        task: The task of a file that names none.

    Raises:
        SpecError: the file is missing or not YAML, or something in it is unknown or out of range.
    """
    from hypercolumns.box_experiments import BoxExperimentSpec
    from hypercolumns.specs import parse_spec

    return _expand_boxes(parse_spec(BoxExperimentSpec, {"task": task, **_values(path, overrides)}), path)


def load_comparison(path: Path | None, overrides: Sequence[str]) -> CompareSpec:
    """Read a comparison of heads and apply overrides, as `load_experiment`.

    Raises:
        SpecError: the file is missing or not YAML, or something in it is unknown or out of range.
    """
    from hypercolumns.box_experiments import CompareSpec
    from hypercolumns.specs import parse_spec

    spec = parse_spec(CompareSpec, _values(path, overrides))
    return spec.model_copy(update={"base": _expand_boxes(spec.base, path)})


def _values(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    value: dict[str, Any] = {} if path is None else _read_yaml(path)
    for override in overrides:
        _apply(value, override)
    return value


def _checked(value: dict[str, Any], path: Path | None) -> ExperimentSpec:
    from hypercolumns.specs import ExperimentSpec, parse_spec

    return _expand(parse_spec(ExperimentSpec, value), path)


def _read_yaml(path: Path) -> dict[str, Any]:
    from cli.plain_yaml import MOST_BYTES, PlainYamlError, parse_plain_yaml
    from hypercolumns.errors import SpecError

    try:
        with path.open("rb") as file:
            # No more than a byte too many, because a device has no end.
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise SpecError(f"{path}: expected an experiment file of at most {MOST_BYTES} bytes, got more; is it another file?")
        value = parse_plain_yaml(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, PlainYamlError) as error:
        raise SpecError(f"{path}: expected YAML, got text that does not parse: {error}") from error
    except OSError as error:
        raise SpecError(f"{path}: expected an experiment file, got {error.strerror or error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpecError(f"{path}: expected a mapping of sections (dataset, backbone, store ...), got {type(value).__name__}")
    return value


def _apply(value: dict[str, Any], override: str) -> None:
    from cli.plain_yaml import PlainYamlError, parse_plain_yaml
    from hypercolumns.errors import SpecError

    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise SpecError(f"expected an override of the form key.path=value, got {override!r:.200}")
    try:
        parsed = parse_plain_yaml(text)
    except PlainYamlError as error:
        raise SpecError(f"{path}: expected a YAML value, got {text!r:.200}: {error}") from error
    for key in keys[:-1]:
        below = value.setdefault(key, {})
        if not isinstance(below, dict):
            raise SpecError(f"{path}: {key} is a value, not a section")
        value = below
    value[keys[-1]] = parsed


def _expand(spec: ExperimentSpec, path: Path | None) -> ExperimentSpec:
    """Expand ~ and $VARIABLES in paths; relative ones count from the current folder."""
    dataset, backbone = (
        _expanded(section, name, fields, path)
        for section, name, fields in ((spec.dataset, "dataset", ("root",)), (spec.backbone, "backbone", ("weights",)))
    )
    return spec.model_copy(update={"dataset": dataset, "backbone": backbone})


def _expand_boxes(spec: BoxExperimentSpec, path: Path | None) -> BoxExperimentSpec:
    sections = {
        "instances": ("root", "annotation_root"),
        "detections": ("results", "weights"),
        "backbone": ("weights",),
    }
    return spec.model_copy(
        update={name: _expanded(getattr(spec, name), name, fields, path) for name, fields in sections.items()}
    )


def _expanded(section: SpecT, name: str, fields: Sequence[str], path: Path | None) -> SpecT:
    """Return a section with some of its texts expanded, where they are given."""
    given = {field: getattr(section, field) for field in fields}
    update = {field: _expand_text(text, f"{name}.{field}", path) for field, text in given.items() if text is not None}
    return section.model_copy(update=update)


def _expand_text(text: str, field: str, path: Path | None) -> str:
    import os

    from hypercolumns.errors import SpecError

    result = os.path.expandvars(text)
    if result.startswith("~"):
        result = os.path.expanduser(result)  # noqa: PTH111 - pathlib's raises where there is no such user
        if result.startswith("~"):
            raise SpecError(f"{field}: {text!r} names the home of a user who does not exist ({path or 'defaults'})")
    if "$" in result:
        raise SpecError(f"{field}: {text!r} names an environment variable that is not set ({path or 'defaults'})")
    return result
