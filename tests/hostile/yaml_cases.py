"""Experiment files that are broken, lying, enormous, or try to run something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LAUGHS = 'a0: &a0 ["lol", "lol"]\n' + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
_MERGES = "a0: &a0 {k0: 1, l0: 2}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n  k{n}: 1\n" for n in range(1, 12)
)
_DATA = "dataset: {kind: folder, root: ROOT}\n"
NOT_YAML = r"expected YAML, got text that does not parse: "


@dataclass(frozen=True)
class Text:
    """One experiment file.

    Args:
        data: its bytes.
        message: what the refusal says; None where the file is sound.
        holds: fields by path and their values, where it is sound.
        overrides: given on the command line beside it.
    """

    data: bytes
    message: str | None = None
    holds: tuple[tuple[str, Any], ...] = ()
    overrides: tuple[str, ...] = ()


def _text(text: str, message: str | None = None, **more: Any) -> Text:
    return Text(text.encode("utf-8"), message, **more)


def _override(override: str, message: str) -> Text:
    return Text(b"", message, overrides=(override,))


REFUSED = {
    "a tab": _text("head:\n\thidden: 3\n", NOT_YAML),
    "a key twice": _text("head: {hidden: 3, hidden: 4}\n", r"the key 'hidden' is given twice; .*line 1"),
    "a section twice": _text("head: {hidden: 3}\ntrain: {}\nhead: {dropout: 0.1}\n", r"'head' is given twice.*line 3"),
    "billion laughs": _text(_LAUGHS, r"at most 20000 values"),
    "billion laughs in a field": _text(_LAUGHS + "name: *a11\n", r"at most 20000 values"),
    "billion merges": _text(_MERGES, r"at most 20000 values"),
    "an anchor within itself": _text("head: &h {hidden: *h}\n", r"40 levels"),
    "an alias of nothing": _text("head: *nothing\n", NOT_YAML),
    "a call": _text("name: !!python/object/apply:os.system ['touch executed']\n", r"got the tag .*python"),
    "a call in a key": _text("? !!python/object/apply:os.mkdir [executed]\n: 1\n", NOT_YAML),
    "a module": _text("name: !!python/module:os\n", r"got the tag"),
    "a name": _text("name: !!python/name:os.system\n", r"got the tag"),
    "an object": _text("name: !!python/object/new:os.system [touch executed]\n", r"got the tag"),
    "a tag of somebody's": _text("head: !mine {hidden: 3}\n", r"got the tag !mine"),
    "bytes": _text("name: !!binary aGVsbG8=\n", r"got the tag"),
    "a set in place of a list": _text("store: {views: !!set {identity, hflip}}\n", r"got the tag"),
    "an ordered map": _text("head: !!omap [hidden: 3]\n", r"got the tag"),
    "a number that is none": _text("head: {hidden: !!int many}\n", r"expected a value of type int, got 'many'"),
    "an empty number": _text("head: {hidden: !!int ''}\n", r"expected a value of type int, got ''"),
    "a truth value that is none": _text("head: {coordinates: !!bool maybe}\n", r"expected a value of type bool"),
    "not UTF-8": Text(b"name: caf\xe9\n", NOT_YAML),
    "UTF-16": Text("name: a\n".encode("utf-16"), NOT_YAML),
    "NUL bytes": Text(b"name: a\0b\n", NOT_YAML),
    "control characters": Text(b"name: \x1b[2J\n", NOT_YAML),
    "a number of 10000 digits": _text("head: {hidden: 1" + "0" * 10_000 + "}\n", r"at most 100 characters, got 10001"),
    "a number of 100 digits": _text("head: {hidden: 1" + "0" * 90 + "}\n", r"head\.hidden: "),
    "a hexadecimal number of 10000 digits": _text("head: {hidden: 0x" + "f" * 10_000 + "}\n", r"at most 100 characters"),
    "a float of 10000 digits": _text("train: {learning_rate: 0." + "1" * 10_000 + "}\n", r"at most 100 characters"),
    "a huge number": _text("sample: {seed: 18446744073709551616}\n", r"sample\.seed"),
    "a negative number": _text("train: {epochs: -1}\n", r"train\.epochs"),
    "no number": _text("train: {learning_rate: .nan}\n", r"train\.learning_rate: Input should be a finite number"),
    "no number in quotes": _text("train: {learning_rate: 'nan'}\n", r"train\.learning_rate: Input should be a finite number"),
    "infinity": _text("train: {weight_decay: .inf}\n", r"train\.weight_decay"),
    "minus infinity": _text("dataset: {max_megapixels: -.inf}\n", r"dataset\.max_megapixels"),
    "an overflow": _text("train: {learning_rate: 1.0e+400}\n", r"train\.learning_rate: Input should be a finite number"),
    "yes in place of a number": _text("train: {epochs: yes}\n", r"train\.epochs: expected no truth value, got True"),
    "true among numbers": _text("store: {canvas: {size_hw: [64, true]}}\n", r"size_hw: expected no truth value"),
    "true in place of a float": _text("train: {learning_rate: on}\n", r"train\.learning_rate: expected no truth value"),
    "a number in place of text": _text("name: 3\n", r"name: "),
    "no in place of a name": _text("name: no\n", r"name: "),
    "a list in place of a section": _text("head: [3]\n", r"head: "),
    "a section in place of a number": _text("head: {hidden: {a: 1}}\n", r"head\.hidden: "),
    "text in place of a list": _text("store: {views: identity}\n", r"store\.views: "),
    "nothing in place of a section": _text("head:\n", r"head: "),
    "an unknown key, nested": _text("store: {canvas: {size: 3}}\n", r"store\.canvas\.size: Extra inputs are not permitted"),
    "an unknown section": _text("heads: {}\n", r"heads: Extra inputs are not permitted"),
    "a number as key": _text("1: 2\n", r"expected a name as key, got 1"),
    "nothing as key": _text("~: 2\n", r"expected a name as key, got None"),
    "a truth value as key": _text("head: {on: 2}\n", r"expected a name as key, got True"),
    "a list as key": _text("? [a, b]\n: 2\n", r"expected a name as key"),
    "10000 unknown keys": _text("".join(f"key{n}: 1\n" for n in range(9_000)), r"and 8980 more"),
    "a key of 100000 letters": _text(f"{'k' * 1000}: 1\n", r"Extra inputs are not permitted"),
    "a text of 100000 letters": _text(f"name: {'n' * 100_000}\n", r"name: String should match pattern"),
    "brackets without end": _text("[" * 100_000, NOT_YAML),
    "braces without end": _text("{a: " * 30_000, NOT_YAML),
    "dashes without end": _text("- " * 100_000, NOT_YAML),
    "a list 100 deep": _text("name: " + "[" * 100 + "]" * 100 + "\n", r"40 levels"),
    "a list at the top": _text("- head\n- train\n", r"expected a mapping of sections .* got list"),
    "a number at the top": _text("3\n", r"expected a mapping of sections .* got int"),
    "a text at the top": _text("head\n", r"expected a mapping of sections .* got str"),
    "two documents": _text("name: a\n---\nname: b\n", NOT_YAML),
    "JSON with a comma too many": _text('{"head": {"hidden": 3,,}}', NOT_YAML),
    "a PNG": Text(b"\x89PNG\r\n\x1a\n\0\0", NOT_YAML),
    "a zip": Text(b"PK\x03\x04" + bytes(100), NOT_YAML),
    "a merge of a number": _text("head:\n  <<: 3\n  hidden: 3\n", r"expected a mapping to merge"),
    "a home of nobody": _text("dataset: {kind: folder, root: ~nobody-of-this-name/data}\n", r"dataset\.root: .*home of a user"),
    "weights in a home of nobody": _text(
        "backbone: {weights: ~nobody-of-this-name/w.pth}\n", r"backbone\.weights: .*home of a"
    ),
    "a root with a NUL": _text('dataset: {kind: folder, root: "/tmp/a\\0b"}\n', r"expected the data set's folder, found none"),
    "a root of 10000 letters": _text(
        f"dataset: {{kind: folder, root: /tmp/{'r' * 10_000}}}\n", r"expected the data set's folder"
    ),
    "weights with a NUL": _text(f'{_DATA}backbone: {{weights: "/tmp/a\\0b.pth"}}\n', r"weights: expected a file"),
    "weights of 10000 letters": _text(f"{_DATA}backbone: {{weights: /tmp/{'w' * 10_000}.pth}}\n", r"weights: expected a file"),
    "weights on another machine": _text(
        f"{_DATA}backbone: {{weights: 'http://127.0.0.1:9/w.pth'}}\n", r"weights: expected a file"
    ),
    "a lone surrogate": _text('name: "a\\uD800"\n', r"name: "),
    "signs that act on a terminal": _text('"\\e[2J\\x9b": 1\n', r"\\x1b\[2J\\x9b: Extra inputs"),
    "a pattern that does not end": _text("dataset: {group_pattern: '(a'}\n", r"dataset\.group_pattern: expected a regular"),
    "a split elsewhere": _text("dataset: {kind: folder, root: ROOT, train_split: ../../etc}\n", r"no split '../../etc'"),
    "an override that is a list": _override("head=[1, 2]", r"head: Input should be"),
    "an override that is a call": _override("name=!!python/object/apply:os.system ['touch executed']", r"got the tag"),
    "an override of laughs": _override(f"name={_LAUGHS!r}", r"name: "),
    "an override without a value": _override("head.hidden", r"expected an override of the form key\.path=value"),
    "an override without a key": _override("=3", r"expected an override of the form"),
    "an override with an empty part": _override("head..hidden=3", r"expected an override of the form"),
    "an override of an unknown field": _override("head.hiden=3", r"head\.hiden: Extra inputs"),
    "an override below a value": _override("name.first.second=3", r"name: Input should be a valid string"),
    "an override of too many digits": _override("head.hidden=" + "9" * 5_000, r"at most 100 characters"),
    "an override of nothing": _override("head.hidden=", r"head\.hidden: .*got None"),
    "an override with a tab": _override("head.hidden=\t3", r"expected a YAML value"),
    "an override that is not UTF-8": _override("name=caf\udce9", r"expected a YAML value"),
    "an override that is true": _override("train.epochs=true", r"train\.epochs: expected no truth value"),
}

TAKEN = {
    "an empty file": _text(""),
    "comments alone": _text("# nothing\n"),
    "nothing in words": _text("null\n"),
    "a byte order mark": Text(b"\xef\xbb\xbfname: marked\n", holds=(("name", "marked"),)),
    "Windows line ends": Text(b"head:\r\n  hidden: 3\r\n", holds=(("head.hidden", 3),)),
    "JSON": _text('{"head": {"hidden": 3}}', holds=(("head.hidden", 3),)),
    "a float in the short form": _text("train: {learning_rate: 1e-3}\n", holds=(("train.learning_rate", 0.001),)),
    "an anchor": _text("train: &t {epochs: 3}\npretrain: *t\n", holds=(("train.epochs", 3), ("pretrain.epochs", 3))),
    "an anchor and an override": _text(
        "train: &t {epochs: 3}\npretrain: *t\n",
        holds=(("train.epochs", 5), ("pretrain.epochs", 3)),
        overrides=("train.epochs=5",),
    ),
    "a merge": _text(
        "train: &t {epochs: 3, seed: 4}\npretrain:\n  epochs: 9\n  <<: *t\n",
        holds=(("pretrain.epochs", 9), ("pretrain.seed", 4), ("train.epochs", 3)),
    ),
    "a merge of two": _text(
        "train: &t {epochs: 3, seed: 4}\npretrain:\n  <<: [{seed: 1}, *t]\n",
        holds=(("pretrain.epochs", 3), ("pretrain.seed", 1)),
    ),
    "a name like a date": _text("name: 2026-11-20\n", holds=(("name", "2026-11-20"),)),
    "a name like a date that is none": _text("name: 2026-99-99\n", holds=(("name", "2026-99-99"),)),
    "two overrides of one field": _text("", holds=(("head.hidden", 4),), overrides=("head.hidden=3", "head.hidden=4")),
    "a section and a field of it": _text(
        "", holds=(("head.hidden", 4), ("head.dropout", 0.5)), overrides=("head={hidden: 3, dropout: 0.5}", "head.hidden=4")
    ),
}
