"""File names that are odd, and names that are too much alike."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.hostile.cases import MASK, Case, PassedOver, Refused, Shown, image, labels, scene
from tests.hostile.encoders import saved
from tests.hostile.image_cases import smooth


def cases() -> Iterator[Case]:
    """List all of them."""
    names = {
        "a new line": "two\nlines",
        "255 bytes": "a" * 251,
        "255 bytes of Chinese": "漢" * 83 + "ab",
        "emoji": "🐙👩‍👩‍👧 🏳️‍🌈",
        "a leading dash": "-rf",
        "two leading dashes": "--workspace",
        "control characters": "a\x1b[2J\x07\x08b\x7f",
        "a carriage return": "good\rbad",
        "right-to-left marks": "photo\u202egnp.exe",
        "invisible characters": "a\u200b\u2060\ufeffb",
        "quotes and a dollar": "a'b\"c$HOME`id`;rm -rf x",
        "percent signs": "%2e%2e%2fetc%00",
        "backslashes": "a\\..\\..\\windows",
        "tags": "<img src=x onerror=alert(1)>",
        "dots behind it": "case..",
        "spaces at its ends": "  case  ",
        "nothing but a space": " ",
        "a tab": "a\tb",
        "a glob": "[!a]*?{b,c}",
        "a comma and a colon": "a,b:c|d",
        "a reserved device of another system": "CON",
        "decomposed letters": "A\u030angstro\u0308m",
        "a JSON text": '{"a": 1}\\n',
    }
    for name, stem in names.items():
        file = f"images/train/{stem}.png"
        yield Case(f"name with {name}", image(saved(scene(), "PNG"), file), Shown(), file=file)
    for stem in (".", "..", "...", ".hidden"):
        file = f"images/train/{stem}.png"
        yield Case(f"name that is hidden, {stem}", image(b"", file), PassedOver(), file=file, has_mask=False)
    raw = os.fsdecode(b"caf\xe9.png")
    yield Case(
        "name that is not UTF-8",
        image(saved(scene(), "PNG"), f"images/train/{raw}"),
        Refused("is not valid UTF-8"),
        has_mask=False,
    )
    twice = Case(
        "names that differ in case alone",
        lambda root: (
            image(saved(scene(), "PNG"))(root),
            image(saved(smooth(), "PNG"), "images/train/CASE.png")(root),
            (root / MASK / "CASE.png").write_bytes(saved(labels(), "PNG")),
        ),
        Shown(),
    )
    yield twice
    yield Case(
        "names that differ in suffix alone",
        lambda root: (image(saved(scene(), "PNG"))(root), image(b"", "images/train/case.jpg")(root)),
        Refused("2 files are named 'case'"),
    )
    yield Case(
        "names that differ in the suffix's case alone",
        lambda root: (image(saved(scene(), "PNG"))(root), image(b"", "images/train/case.PNG")(root)),
        Refused("2 files are named 'case'"),
    )
    composed = Case(
        "names that differ in composition alone",
        lambda root: (
            image(saved(scene(), "PNG"), "images/train/\u00e9.png")(root),
            image(saved(scene(), "PNG"), "images/train/e\u0301.png")(root),
        ),
        Refused("2 files are named"),
        file="images/train/\u00e9.png",
    )
    yield composed
