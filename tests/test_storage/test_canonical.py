import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import canonical_bytes, digest, file_sha256, read_json
from storage.errors import FormatError

ROOT = Path(__file__).parents[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé\n", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_the_canonical_form_is_the_one_written_down():
    value = {"b": [1, 2.5, None, True], "a": "é"}
    assert canonical_bytes(value) == '{"a":"é","b":[1,2.5,null,true]}'.encode()
    assert digest(value) == hashlib.sha256('{"a":"é","b":[1,2.5,null,true]}'.encode()).hexdigest()[:20]
    assert len(digest(value, 64)) == 64


@given(st.dictionaries(st.text("abc", max_size=2), JSON, max_size=4))
def test_the_order_of_keys_changes_nothing(value):
    assert canonical_bytes(dict(reversed(value.items()))) == canonical_bytes(value)


@given(JSON, JSON)
def test_different_values_have_different_spellings(left, right):
    assert (canonical_bytes(left) == canonical_bytes(right)) == (repr(_ordered(left)) == repr(_ordered(right)))


def _ordered(value):
    if isinstance(value, dict):
        return [(key, _ordered(value[key])) for key in sorted(value)], "object"
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def test_every_process_makes_the_same_key():
    command = "from storage.canonical import digest; print(digest({'a': ['x', 1], 'b': {'c': 2}}))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", command],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert answers == {digest({"b": {"c": 2}, "a": ["x", 1]}).encode() + b"\n"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {("a",): 1}, {1, 2}, b"bytes", Path("x"), {"a": 1, 2: 3}])
def test_what_is_not_json_makes_no_key(value):
    with pytest.raises(FormatError, match="expected a JSON value"):
        canonical_bytes(value)


def test_a_files_sha256_is_hashlibs(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"a": 1}x'])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path, text):
    (tmp_path / "spec.json").write_bytes(text)
    with pytest.raises(FormatError, match=r"spec\.json: expected a JSON object"):
        read_json(tmp_path / "spec.json")


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "spec.json").write_bytes('{"a": "é"}'.encode())
    assert read_json(tmp_path / "spec.json") == {"a": "é"}
