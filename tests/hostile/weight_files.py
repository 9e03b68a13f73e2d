"""The corpus of weights files, through the building of a backbone: what `tests.hostile.runner` runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save as save_tensors

from hypercolumns.backbones import build_backbone
from hypercolumns.specs import BackboneSpec
from tests.hostile.runner import explained

CANVAS_HW = (32, 32)
READ_AS_ONE = r"expected a state dict of tensors, got a file that cannot be read as one"
FIRST = "features.0.weight"


class Trap:
    """What would make a folder if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


class Buried:
    """A trap inside what torch itself rebuilds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (Trap(), 0, (1,), (1,), False, {})


@cache
def sound() -> dict[str, torch.Tensor]:
    """Draw the weights of a whole network."""
    torch.manual_seed(0)
    return dict(torchvision.models.squeezenet1_1().state_dict())


def saved(value: Any, **options: Any) -> bytes:
    """Save as torch does."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def changed(**entries: Any) -> bytes:
    """Save the sound weights with entries of other values (dots spelled as two underscores)."""
    return saved({**sound(), **{name.replace("__", "."): value for name, value in entries.items()}})


def header(text: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    """Spell a safetensors file by hand."""
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def named(**entry: Any) -> bytes:
    """Spell the header of one entry."""
    return json.dumps({FIRST: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}).encode()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Spell a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def repacked(data: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """Replace members of what torch saved, by the end of their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        held = {name: file.read(name) for name in file.namelist()}
    return archive(
        {name: members.get(name.rpartition("/")[2].replace(".", "_"), data) for name, data in held.items()}, compression
    )


def bias(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], bytes]:
    """Return what saves the sound weights with one bias changed."""
    return lambda: changed(features__0__bias=change(torch.zeros(64)))


# name -> (suffix, bytes, what the refusal says)
CASES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "pickle with a trap": (".pth", lambda: pickle.dumps({FIRST: Trap()}), READ_AS_ONE),
    "pickle with a trap, protocol 0": (".pth", lambda: pickle.dumps({FIRST: Trap()}, 0), READ_AS_ONE),
    "pickle with a trap as a key": (".pth", lambda: pickle.dumps({Trap(): 1}), READ_AS_ONE),
    "pickle with a buried trap": (".pth", lambda: pickle.dumps({FIRST: Buried()}), READ_AS_ONE),
    "pickle with a trap called .safetensors": (".safetensors", lambda: pickle.dumps({FIRST: Trap()}), READ_AS_ONE),
    "zip with a trap": (".pt", lambda: saved({FIRST: Trap()}), READ_AS_ONE),
    "zip with a trap called .safetensors": (".safetensors", lambda: saved({FIRST: Trap()}), READ_AS_ONE),
    "zip whose pickle was replaced": (".pt", lambda: repacked(saved(sound()), data_pkl=pickle.dumps(Trap())), READ_AS_ONE),
    "old format with a trap": (".pth", lambda: saved({FIRST: Trap()}, _use_new_zipfile_serialization=False), READ_AS_ONE),
    "module in place of its state": (".pth", lambda: saved(torch.nn.Linear(1, 1)), READ_AS_ONE),
    "pickle of code": (".pth", lambda: b"cos\nsystem\n(S'touch executed'\ntR.", READ_AS_ONE),
    "pickle that never ends": (".pth", lambda: b"\x80\x02" + b"(" * 100_000, READ_AS_ONE),
    "pickle nested 100000 deep": (".pth", lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "state dict"),
    "pickle with a long of 2 GiB": (".pth", lambda: b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x", READ_AS_ONE),
    "pickle with bytes of 8 EiB": (".pth", lambda: b"\x80\x04\x8e" + (2**63 - 1).to_bytes(8, "little") + b"x", READ_AS_ONE),
    "pickle with a memo of 4 billion": (".pth", lambda: b"\x80\x02K\x01r\xff\xff\xff\xff.", "state dict"),
    "empty": (".pth", lambda: b"", READ_AS_ONE),
    "empty safetensors": (".safetensors", lambda: b"", READ_AS_ONE),
    "text": (".pth", lambda: b"not weights at all", READ_AS_ONE),
    "zip that is cut": (".pth", lambda: saved(sound())[:-500], READ_AS_ONE),
    "zip without members": (".pth", lambda: archive({}), READ_AS_ONE),
    "zip of something else": (".pth", lambda: archive({"../../executed": b"x", "a/readme": b"y"}), READ_AS_ONE),
    "zip that unpacks to 300 MB": (".pth", lambda: _bomb(), r"unpacks to \d{9} bytes, more than the file has"),
    "zip whose tensors are elsewhere": (".pth", lambda: _without_data(), READ_AS_ONE),
    "old format that is cut": (".pth", lambda: saved(sound(), _use_new_zipfile_serialization=False)[:5000], READ_AS_ONE),
    "list": (".pth", lambda: saved([1, 2]), "got a list"),
    "number": (".pth", lambda: saved(3), "got a int"),
    "nothing in it": (".pth", lambda: saved({}), r"the keys \[\]"),
    "whole checkpoint": (".pth", lambda: saved({"state_dict": sound(), "epoch": 3}), r"the keys \['state_dict', 'epoch'\]"),
    "entries of numbers": (".pth", lambda: saved({FIRST: 3}), "the keys"),
    "numbers for names": (".pth", lambda: saved({1: torch.zeros(1)}), "unknown: 1"),
    "a name twice": (".pth", lambda: saved({1: torch.zeros(1), "1": torch.zeros(1)}), "two of one name"),
    "another shape": (".pth", lambda: changed(features__0__weight=torch.zeros(64, 3, 7, 7)), "of another shape"),
    "a transposed shape": (".pth", lambda: changed(features__0__weight=torch.zeros(3, 64, 3, 3)), "of another shape"),
    "no dimensions": (".pth", lambda: changed(features__0__bias=torch.tensor(1.0)), "of another shape"),
    "an extra entry": (".pth", lambda: changed(head__weight=torch.zeros(1)), "unknown: head.weight"),
    "missing entries": (".pth", lambda: saved({FIRST: sound()[FIRST]}), "missing: features.0.bias"),
    "not finite": (".pth", bias(lambda b: b + float("nan")), "not finite: features.0.bias"),
    "infinite": (".pth", bias(lambda b: b - float("inf")), "not finite: features.0.bias"),
    "complex": (".pth", bias(lambda b: b.to(torch.complex64)), "of another kind"),
    "whole numbers": (".pth", bias(lambda b: b.to(torch.int8)), "of another kind"),
    "truth values": (".pth", bias(lambda b: b.bool()), "of another kind"),
    "sparse": (".pth", bias(lambda b: b.to_sparse()), "of another kind|read as one"),
    "without values": (".pth", bias(lambda b: b.to("meta")), "of another kind|cannot be read"),
    "header of 8 EiB": (".safetensors", lambda: header(b"{}", 2**63 - 1), READ_AS_ONE),
    "header of 90 MB": (".safetensors", lambda: header(b"{" + b" " * 90_000_000), READ_AS_ONE),
    "header that is cut": (".safetensors", lambda: header(named(), 5000), READ_AS_ONE),
    "header of nothing": (".safetensors", lambda: header(b""), READ_AS_ONE),
    "header that is no JSON": (".safetensors", lambda: header(b"{not json}"), READ_AS_ONE),
    "header that is a list": (".safetensors", lambda: header(b"[]"), READ_AS_ONE),
    "header 100000 deep": (".safetensors", lambda: header(b'{"a":' + b"[" * 100_000), READ_AS_ONE),
    "header without tensors": (".safetensors", lambda: header(b"{}"), r"the keys \[\]"),
    "tensors behind the end": (".safetensors", lambda: header(named(data_offsets=[0, 400], shape=[100])), READ_AS_ONE),
    "tensors before the begin": (".safetensors", lambda: header(named(data_offsets=[-4, 0]), body=bytes(4)), READ_AS_ONE),
    "tensors turned round": (".safetensors", lambda: header(named(data_offsets=[4, 0]), body=bytes(4)), READ_AS_ONE),
    "a shape that overflows": (".safetensors", lambda: header(named(shape=[2**62, 4]), body=bytes(4)), READ_AS_ONE),
    "a shape below zero": (".safetensors", lambda: header(named(shape=[-1]), body=bytes(4)), READ_AS_ONE),
    "a shape of other bytes": (".safetensors", lambda: header(named(shape=[2]), body=bytes(4)), READ_AS_ONE),
    "an unknown type": (".safetensors", lambda: header(named(dtype="F31"), body=bytes(4)), READ_AS_ONE),
    "rubbish behind the tensors": (".safetensors", lambda: save_tensors(sound()) + b"more", READ_AS_ONE),
    "safetensors not finite": (".safetensors", lambda: save_tensors({FIRST: sound()[FIRST] * float("nan")}), "not finite"),
    "safetensors with an extra entry": (".safetensors", lambda: save_tensors({"x": torch.zeros(1)}), "unknown: x"),
}  # fmt: skip


def _bomb() -> bytes:
    buffer = io.BytesIO(saved(sound()))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file, file.open("archive/data/999", "w") as member:
        for _ in range(300):
            member.write(bytes(1_000_000))
    return buffer.getvalue()


def _without_data() -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved(sound()))) as file:
        return archive({name: file.read(name) for name in file.namelist() if "/data/" not in name})


# name -> (what writes it, what the refusal says)
PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "which is a folder"),
    "FIFO": (lambda path: os.mkfifo(path), "which is no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "which is no regular file"),
    "link to itself": (lambda path: path.symlink_to(path), "which is not there"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "which is not there"),
    "nothing": (lambda path: None, "which is not there"),
    "another digest": (lambda path: path.write_bytes(saved(sound())), "expected sha256 0000.*got "),
}


def names() -> list[str]:
    """List the cases."""
    return [*CASES, *PLACES, "sound", "sound, with its digest"]


def perform(name: str, folder: Path) -> dict[str, Any]:
    """Build a backbone from the file; say whether anything was executed."""
    os.chdir(folder)
    suffix, make, _ = CASES.get(name, (".pth", lambda: saved(sound()), ""))
    path, digest = folder / f"weights{suffix}", None
    if name in PLACES:
        PLACES[name][0](path)
        digest = "0" * 64
    else:
        path.write_bytes(make())
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if name.endswith("digest") else None
    try:
        backbone = build_backbone(BackboneSpec(name="squeezenet1_1", weights=str(path), weights_sha256=digest), CANVAS_HW)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test judges it
        return explained(error) | {"executed": (folder / "executed").exists()}
    return {"weights_sha256": backbone.weights_sha256, "executed": (folder / "executed").exists()}
