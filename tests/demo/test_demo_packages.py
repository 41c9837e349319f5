"""Packages: what happens without a client, without a network, with a broken or hostile archive, and the second time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imglish.demo import packages as module
from imglish.demo.packages import Package, extract_tgz, get_packages
from imglish.errors import SourceError
from tests.demo.demo_helpers import client, put, tgz

NPM = Package("@scope/pictures", "npm", "pictures", "1.0.0")
DEB = Package("little-manual", "apt-get", "a manual")
COPY = "import shutil, sys\nopen({log!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\nshutil.copy({archive!r}, '.')\n"


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def npm_with(bin_folder: Path, archive: bytes) -> Path:
    """An npm that packs this archive; the log of its calls."""
    put(bin_folder / "scope-pictures-1.0.0.tgz", archive)
    log = bin_folder / "log"
    client(bin_folder, "npm", COPY.format(log=str(log), archive=str(bin_folder / "scope-pictures-1.0.0.tgz")))
    return log


def test_a_missing_client_is_named_and_the_others_go_on(tmp_path: Path, bin_folder: Path) -> None:
    npm_with(bin_folder, tgz({"package/a.png": b"a"}))
    lines: list[str] = []
    assert get_packages(tmp_path / "p", lines.append, [DEB, NPM]) == {"little-manual": "apt-get is not installed"}
    assert (tmp_path / "p/scope-pictures/package/a.png").read_bytes() == b"a"
    assert "apt-get is not installed" in lines[0]
    assert lines[1].startswith("package 2/2 @scope/pictures: 0.0 MB in ")


def test_what_is_there_is_not_fetched_again_and_leftovers_go(tmp_path: Path, bin_folder: Path) -> None:
    log = npm_with(bin_folder, tgz({"package/a.png": b"a"}))
    put(tmp_path / "p/.partial-x/files/half", b"")
    for _ in range(2):
        assert get_packages(tmp_path / "p", lambda line: None, [NPM]) == {}
    assert log.read_text() == "pack --ignore-scripts --silent @scope/pictures@1.0.0\n"
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["scope-pictures"]


def test_a_kept_archive_lies_beside_its_folder(tmp_path: Path, bin_folder: Path) -> None:
    archive = tgz({"package/a.png": b"a"})
    log = npm_with(bin_folder, archive)
    kept = Package("@scope/pictures", "npm", "pictures", "1.0.0", keep_archive=True)
    get_packages(tmp_path / "p", lambda line: None, [kept])
    assert (tmp_path / "p/scope-pictures.tgz").read_bytes() == archive
    (tmp_path / "p/scope-pictures.tgz").unlink()
    get_packages(tmp_path / "p", lambda line: None, [kept])
    assert log.read_text().count("\n") == 2


def test_a_client_that_fails_says_why(tmp_path: Path, bin_folder: Path) -> None:
    client(bin_folder, "npm", "import sys\nsys.exit('npm error\\nnetwork is unreachable')")
    (reason,) = get_packages(tmp_path / "p", lambda line: None, [NPM]).values()
    assert reason == "npm pack failed: network is unreachable"
    client(bin_folder, "npm", "")
    (reason,) = get_packages(tmp_path / "p", lambda line: None, [NPM]).values()
    assert reason == "npm pack left 0 files instead of one"
    assert list((tmp_path / "p").iterdir()) == []


def test_a_client_that_hangs_is_stopped(tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.3)
    client(bin_folder, "npm", "import threading\nthreading.Event().wait()")
    (reason,) = get_packages(tmp_path / "p", lambda line: None, [NPM]).values()
    assert reason == "npm took longer than 0.3 s"


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """A real Debian package."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb")
    control = (
        "Package: little-manual\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@example.org>\nDescription: x\n"
    )
    put(tmp_path / "tree/DEBIAN/control", control)
    put(tmp_path / "tree/usr/share/doc/little-manual/index.html", "<p>A manual")
    archive = tmp_path / "little-manual_1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tmp_path / "tree", archive], check=True, capture_output=True
    )
    return archive


def apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """An apt-get before the real one in PATH; the log of its calls."""
    folder = tmp_path / "first"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    log = folder / "log"
    client(folder, "apt-get", f"import shutil, sys\nopen({str(log)!r}, 'a').write(sys.argv[2] + '\\n')\n{script}")
    return log


def test_a_debian_package_is_unpacked_without_being_installed(
    tmp_path: Path, deb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt_get(tmp_path, monkeypatch, f"shutil.copy({str(deb)!r}, '.')")
    assert get_packages(tmp_path / "p", lambda line: None, [DEB]) == {}
    page = tmp_path / "p/little-manual/usr/share/doc/little-manual/index.html"
    assert page.read_text() == "<p>A manual"


@pytest.mark.parametrize(
    ("user", "calls", "found"), [(0, ["download", "update", "download"], True), (1000, ["download"], False)]
)
def test_an_empty_index_is_updated_once_and_by_root_only(
    tmp_path: Path, deb: Path, monkeypatch: pytest.MonkeyPatch, user: int, calls: list[str], found: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    marker = tmp_path / "updated"
    script = f"""
import os
if sys.argv[2] == "update":
    open({str(marker)!r}, "w").close()
elif not os.path.exists({str(marker)!r}):
    sys.exit("E: Unable to locate package")
else:
    shutil.copy({str(deb)!r}, ".")"""
    log = apt_get(tmp_path, monkeypatch, script)
    missing = get_packages(tmp_path / "p", lambda line: None, [DEB])
    assert log.read_text().split() == calls
    assert (missing == {}) is found
    assert found or "sudo apt-get update" in missing["little-manual"]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"package/good": b"", "../evil": b"x"}, "leads out"),
        ({"package/good": b"", "/tmp/evil": b"x"}, "leads out"),
        ({"package/good": b"", "package/a/../../../evil": b"x"}, "leads out"),
        ({"package/good": b"", "package/link": None, "package/link/evil": b"x"}, "no plain file"),
        ({"package/twice": b"a", "package/twice/x": b"b"}, "cannot be unpacked"),
    ],
)
def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path, members: dict[str, bytes | None], why: str) -> None:
    put(tmp_path / "a.tgz", tgz(members, link=".."))
    with pytest.raises(SourceError, match=why):
        extract_tgz(tmp_path / "a.tgz", tmp_path / "in" / "target")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and "target" not in path.parts]
    assert outside == [tmp_path / "a.tgz"]


def test_a_truncated_archive_and_a_bomb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tgz({"package/a": bytes(100_000), "package/b": os.urandom(5000)})
    put(tmp_path / "half.tgz", whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"half\.tgz cannot be unpacked"):
        extract_tgz(tmp_path / "half.tgz", tmp_path / "half")
    put(tmp_path / "bomb.tgz", whole)
    monkeypatch.setattr(module, "EXTRACTED_BYTES", 90_000)
    with pytest.raises(SourceError, match="more than 90000 bytes"):
        extract_tgz(tmp_path / "bomb.tgz", tmp_path / "bomb")


def test_a_hostile_package_is_left_out_and_leaves_nothing(tmp_path: Path, bin_folder: Path) -> None:
    npm_with(bin_folder, tgz({"package/a": b"", "../../evil": b"x"}))
    (reason,) = get_packages(tmp_path / "p", lambda line: None, [NPM]).values()
    assert "leads out" in reason
    assert list((tmp_path / "p").iterdir()) == []
