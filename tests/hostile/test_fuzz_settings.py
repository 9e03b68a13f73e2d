"""Experiment files, overrides and names by the thousand: a spec that means what it says, or a `SpecError`."""

from __future__ import annotations

import copy
import math
import string

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.config import load_experiment
from cli.context import printable
from cli.plain_yaml import PlainYamlError, parse_plain_yaml
from hypercolumns.errors import SpecError
from hypercolumns.specs import ExperimentSpec, parse_spec
from storage.errors import StorageError
from storage.folders import checked_name
from storage.layout import layer_folder_name
from tests.hostile.forging import ODD, paths_in

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}
QUICK = settings(max_examples=200, derandomize=True, **_SETTINGS)
LONG = settings(max_examples=20_000, **_SETTINGS)
SOUND = ExperimentSpec().model_dump(mode="json")
TEXT = yaml.safe_dump(SOUND)
SIGNS = "{}[]:,-&*!|>'\"%@`#?~<\n\t \\0123456789.eExXyn\ud7ffé漢\u2028\x85"


def is_spec_or_refused(path, data, overrides=()):
    """Load; what is taken must be a sound spec that travels as JSON."""
    path.write_bytes(data)
    try:
        spec = load_experiment(path, overrides)
    except SpecError as error:
        assert_short(error)
        return None
    assert parse_spec(ExperimentSpec, spec.model_dump(mode="json")) == spec
    return spec


def assert_short(error):
    assert 0 < len(str(error)) < 30_000


@st.composite
def texts(draw):
    """Change the text of a sound file in a few places."""
    text = TEXT
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(text)))
        what = draw(st.sampled_from(("put", "cut", "line", "copy")))
        if what == "put":
            text = text[:place] + draw(st.text(SIGNS, min_size=1, max_size=6)) + text[place:]
        elif what == "cut":
            text = text[:place] + text[place + draw(st.integers(1, 20)) :]
        else:
            lines = text.split("\n")
            line = draw(st.sampled_from(lines))
            lines.insert(draw(st.integers(0, len(lines))), line if what == "copy" else line[: draw(st.integers(0, 30))])
            text = "\n".join(lines)
    return text.encode("utf-8", "replace")


@st.composite
def values(draw):
    """Change values of a sound file."""
    value = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in paths_in(value) if path]))
        parent = value
        for key in above:
            parent = parent[key]
        odd = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=9) | st.booleans()
        parent[last] = copy.deepcopy(draw(odd | st.lists(odd, max_size=3)))
    return value


def fields_of(value, kind):
    """Yield (field, what was written, what came of it) of the fields that were written as plain values."""
    for name in type(kind).model_fields:
        if name in value:
            held = getattr(kind, name)
            if hasattr(type(held), "model_fields"):
                yield from fields_of(value[name], held)
            else:
                yield name, value[name], held


def means_what_it_says(value, spec):
    """Compare what was written with what is held: numbers are those numbers, and no truth value is one."""
    for name, written, held in fields_of(value, spec):
        if isinstance(held, tuple):
            assert len(written) == len(held), name
            pairs = list(zip(written, held, strict=True))
        else:
            pairs = [(written, held)]
        for before, after in pairs:
            if isinstance(after, bool):
                assert before in (after, str(after).lower(), int(after)) or isinstance(before, str), name
            elif isinstance(after, int | float):
                assert not isinstance(before, bool), name
                assert math.isclose(float(before), after), name
            else:
                assert before == after, name


def check_values(value, path):
    try:
        text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8")
    except UnicodeEncodeError:
        text = yaml.safe_dump(value).encode("utf-8")
    spec = is_spec_or_refused(path, text)
    if spec is not None:
        means_what_it_says(value, spec)


@QUICK
@given(texts())
def test_a_mutated_text_is_a_spec_or_refused(tmp_path, data):
    is_spec_or_refused(tmp_path / "a.yaml", data)


@QUICK
@given(values())
def test_mutated_values_mean_what_they_say_or_are_refused(tmp_path, value):
    check_values(value, tmp_path / "a.yaml")


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_are_a_spec_or_refused(tmp_path, data):
    is_spec_or_refused(tmp_path / "a.yaml", data)


_PATHS = st.sampled_from([".".join(map(str, path)) for path in paths_in(SOUND) if path]) | st.text(SIGNS, max_size=12)


@QUICK
@given(st.lists(st.builds("{}={}".format, _PATHS, st.text(SIGNS, max_size=12)) | st.text(max_size=20), max_size=3))
def test_any_overrides_are_taken_or_refused(tmp_path, overrides):
    is_spec_or_refused(tmp_path / "a.yaml", TEXT.encode(), overrides)


def agree(text):
    """Compare with PyYAML's own safe loader, which must hold the same wherever ours takes a text."""
    try:
        ours = parse_plain_yaml(text)
    except PlainYamlError:
        return
    theirs = yaml.load(text, Loader=_Theirs)  # noqa: S506 - a safe loader
    assert repr(ours) == repr(theirs)


class _Theirs(yaml.SafeLoader):
    """PyYAML's safe loader, with dates as the texts they are."""


_Theirs.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


@QUICK
@given(st.text(SIGNS + "abc", max_size=60) | texts().map(lambda data: data.decode("utf-8")))
def test_what_is_taken_is_what_pyyaml_would_have_read(text):
    agree(text)


@QUICK
@given(st.text(max_size=300) | st.text(string.ascii_letters + "./\\\0\n-+_ ", max_size=300))
def test_no_name_leads_out_of_its_folder(name):
    folder = layer_folder_name(name)
    assert folder not in ("", ".", "..")
    assert not set(folder) & set("/\\\0\n")
    assert len(folder.encode()) < 200
    try:
        assert checked_name(name, "a name") == name
        assert "/" not in name
        assert name.strip(".")
    except StorageError as error:
        assert_short(error)


@QUICK
@given(st.text() | st.text("\x00\x1b\x7f\x9b\u202e\ud800ab\n\t"))
def test_what_is_printed_acts_on_no_terminal(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert not [sign for sign in shown if (ord(sign) < 32 and sign not in "\n\t") or 0x7F <= ord(sign) < 0xA0]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


@pytest.mark.slow
@LONG
@given(texts())
def test_many_mutated_texts_are_specs_or_refused(tmp_path, data):
    is_spec_or_refused(tmp_path / "a.yaml", data)


@pytest.mark.slow
@LONG
@given(values())
def test_many_mutated_values_mean_what_they_say_or_are_refused(tmp_path, value):
    check_values(value, tmp_path / "a.yaml")


@pytest.mark.slow
@LONG
@given(st.text(SIGNS + "abc", max_size=200) | texts().map(lambda data: data.decode("utf-8")))
def test_what_is_taken_is_always_what_pyyaml_would_have_read(text):
    agree(text)
