"""Processed clips on disk: bounded, shared by loader workers and runs, and never different from decoding anew."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

FORMAT = 2
"""Raise it whenever what is stored for the same clip and settings changes."""
MAGIC = b"CAIRclip"
HEAD = struct.Struct("<8sII")
"""Magic, checksum of all that follows this head, length of the description."""
LOW_WATER = 0.9
"""Share of the bound that is left when old clips have to go, so that they do not go one by one."""


@dataclass(slots=True, kw_only=True)
class StoredClip:
    """A processed clip as it is stored."""

    patches: NDArray[np.uint8] | NDArray[np.float32]
    """[patches, values of a patch], bytes or floats."""
    grid: tuple[int, int, int]
    """Temporal patches, and rows and columns of patches."""
    seconds_per_grid: float
    """Seconds that a temporal patch covers."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class ClipCache:
    """A folder of processed clips, at most `max_gib` in size; what was used least recently goes first.

    A clip's name is made of the content of its file and of everything that decides the result, so a changed file or
    setting is another clip. Any number of processes on one machine may share the folder; writers wait for each other.
    A file that is torn or foreign counts as absent and is replaced.
    """

    folder: Path
    """Where the clips lie; made when the first one is stored. Everything below it belongs to the cache."""
    max_gib: float = 50.0
    """Largest size of all clips together in GiB (2 ** 30 bytes)."""
    damaged: int = field(default=0, init=False, compare=False)
    """Files that this process found torn or foreign."""
    _hashes: dict[tuple[str, int, int], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the bound.

        Raises:
            ValueError: If it is no positive size.
        """
        self.folder = Path(self.folder)
        if not 0 < self.max_gib < float("inf"):
            raise ValueError(f"expected max_gib to be a positive number of GiB, got {self.max_gib}")

    def key(self, clip: Path, recipe: Mapping[str, Any]) -> str | None:
        """The name of a processed clip; None where its file cannot be read.

        Args:
            clip: The file. Its content is hashed once per process, as long as its size and time stay the same.
            recipe: Everything else that decides the result, as JSON knows it.
        """
        try:
            status = clip.stat()
            known = (str(clip), status.st_size, status.st_mtime_ns)
            if known not in self._hashes:
                with clip.open("rb") as file:
                    self._hashes[known] = hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError:
            return None
        text = json.dumps({"format": FORMAT, "content": self._hashes[known], **recipe}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def load(self, key: str) -> StoredClip | None:
        """A stored clip, bit by bit; None where there is none, or another process has just removed it."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        with suppress(FileNotFoundError, PermissionError):  # removed since, or somebody else's cache
            os.utime(path)
        clip = _unpack(data)
        if clip is None:
            self.damaged += 1
            log.warning("%s is torn or no clip of this cache; the clip is decoded anew and replaces it.", path)
        return clip

    def store(self, key: str, clip: StoredClip) -> None:
        """Store a processed clip. A disk that is full or read-only is warned about, and the run goes on."""
        data = _pack(clip)
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as total:
                if self._make_room(total, len(data) - _size(path)):
                    draft = path.with_suffix(f".{os.getpid()}.draft")
                    draft.write_bytes(data)
                    draft.replace(path)
        except OSError as error:
            log.warning(
                "The clip cache %s cannot be written (%s); clips are decoded anew.", self.folder, error.strerror
            )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.clip"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the folder against other writers; the file that is locked holds the total size."""
        descriptor = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_room(self, total: int, more: int) -> bool:
        """Enter `more` bytes into the total, before they are written: a killed process leaves it too large at most."""
        bound = int(self.max_gib * 2**30)
        digits = os.pread(total, 20, 0)
        used = int(digits) if digits.isdigit() else self._remove_oldest(bound)
        if used + more > bound:
            used = self._remove_oldest(int(LOW_WATER * bound) - more)
        fits = used + more <= bound
        os.pwrite(total, b"%020d" % (used + more if fits else used), 0)
        return fits

    def _remove_oldest(self, bound: int) -> int:
        """Remove drafts of killed processes, and clips from the least recently used on, until the rest fits."""
        for draft in self.folder.glob("*/*.draft"):
            draft.unlink(missing_ok=True)
        found = [(path.stat(), path) for path in self.folder.glob("*/*.clip")]
        used = sum(status.st_size for status, _ in found)
        for status, path in sorted(found, key=lambda item: item[0].st_mtime_ns):
            if used <= bound:
                break
            path.unlink(missing_ok=True)
            used -= status.st_size
        return used


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _pack(clip: StoredClip) -> bytes:
    description = {
        "type": str(clip.patches.dtype),
        "shape": clip.patches.shape,
        "grid": clip.grid,
        "seconds_per_grid": clip.seconds_per_grid.hex(),
    }
    text = json.dumps(description).encode()
    content = text + clip.patches.tobytes()
    return HEAD.pack(MAGIC, zlib.crc32(content), len(text)) + content


def _unpack(data: bytes) -> StoredClip | None:
    """The clip; None where this is not one that `_pack` wrote, whole."""
    if len(data) < HEAD.size:
        return None
    magic, checksum, length = HEAD.unpack_from(data)
    content = memoryview(data)[HEAD.size :]
    if magic != MAGIC or checksum != zlib.crc32(content):
        return None
    description = json.loads(bytes(content[:length]))
    patches = np.frombuffer(content[length:], description["type"]).reshape(description["shape"])
    seconds = float.fromhex(description["seconds_per_grid"])
    return StoredClip(patches=patches.copy(), grid=tuple(description["grid"]), seconds_per_grid=seconds)
