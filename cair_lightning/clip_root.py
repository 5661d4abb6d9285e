"""The folder below which every clip of a data set lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


class ClipRoot:
    """Tells whether clips lie below the root; a folder is resolved once, for many clips lie in it."""

    def __init__(self, clips: Path) -> None:
        self.shown = clips
        self.below = os.path.join(os.path.realpath(clips), "")
        self.folders: dict[str, str] = {}

    def problem(self, clip: str) -> str | None:
        """What is wrong with a clip's path, or None."""
        if _ABSOLUTE.match(clip):
            return f"expected a path relative to the clip root {self.shown}, got the absolute path {clip!r}"
        if ".." in clip and ".." in re.split(r"[/\\]", clip):
            return f"expected a path below the clip root, got '..' in {clip!r}; move the clip or the clip root"
        folder, _, name = f"{self.below}{clip}".rpartition("/")
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        real = f"{self.folders[folder]}/{name}"
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not f"{real}/".startswith(self.below):
            return f"{clip!r} is or follows a symbolic link out of the clip root {self.shown}, to {real}; copy the clip"
        return None
