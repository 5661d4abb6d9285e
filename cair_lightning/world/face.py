"""Drawn faces that act: the clips of the embedded world.

What a face does is a handful of numbers (`Look`). It starts out neutral and moves into its expression, so that a clip
is a short act and not a still. Whose face it is (skin, hair, place, size, background) is drawn at random and says
nothing about the expression. The features are large: at 56 x 56 pixels a tiny vision tower tells the seven apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

EXPRESSIONS = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
OVERSAMPLING = 3  # drawn this much larger and averaged down, for PIL draws without antialiasing
RISE = 0.25  # share of the clip in which the face goes from neutral to its expression


class Look(NamedTuple):
    """What the parts of a face do; lengths are in halves of the head's height, amounts go from 0 to 1."""

    brow_up: float = 0.0
    brow_frown: float = 0.0
    """Above 0 the inner ends go down, a frown; below 0 they go up, worry."""
    eye_open: float = 0.72
    """Height over width."""
    iris: float = 0.115
    """Radius."""
    mouth_width: float = 0.32
    """Half of it, as of the opening."""
    mouth_open: float = 0.035
    mouth_smile: float = 0.0
    """How far the corners are drawn up; below 0 down."""
    mouth_square: float = 0.0
    """An amount: from an ellipse to a box."""
    mouth_wave: float = 0.0
    sneer: float = 0.0
    """How far one corner curls up; the nose wrinkles with it."""
    teeth: float = 0.0
    """The share of the opening that shows them."""
    jaw: float = 0.0
    """How far the chin drops."""
    blush: float = 0.0
    tears: float = 0.0
    sweat: float = 0.0
    tint: float = 0.0
    """An amount: how much of `TINTS` the skin takes on."""
    shake: float = 0.0
    """How far the head shakes."""
    sink: float = 0.0
    """How far the head goes down; below 0 up."""


LOOKS = {
    "angry": Look(
        brow_up=-0.1, brow_frown=0.2, eye_open=0.6, iris=0.11, mouth_width=0.42, mouth_open=0.14, mouth_smile=-0.08,
        mouth_square=1, teeth=1, tint=0.55, shake=0.025,
    ),
    "disgusted": Look(
        brow_up=-0.05, brow_frown=0.07, eye_open=0.3, iris=0.11, mouth_width=0.44, mouth_open=0.09, mouth_smile=-0.14,
        mouth_wave=0.04, sneer=0.34, teeth=0.5, tint=0.55, sink=-0.05,
    ),
    "fearful": Look(
        brow_up=0.14, brow_frown=-0.17, eye_open=1.3, iris=0.06, mouth_width=0.42, mouth_open=0.12, mouth_smile=-0.1,
        mouth_square=0.7, mouth_wave=0.05, tint=0.6, sweat=1, shake=0.035,
    ),
    "happy": Look(
        brow_up=0.08, eye_open=0.55, iris=0.12, mouth_width=0.5, mouth_open=0.2, mouth_smile=0.2, teeth=0.5, blush=1,
        sink=-0.05,
    ),
    "neutral": Look(),
    "sad": Look(brow_frown=-0.2, eye_open=0.5, mouth_width=0.36, mouth_smile=-0.24, tears=1, tint=0.3, sink=0.1),
    "surprised": Look(brow_up=0.2, eye_open=1.25, iris=0.1, mouth_width=0.21, mouth_open=0.26, jaw=0.16, sink=-0.02),
}  # fmt: skip
TINTS = {"angry": (225, 55, 40), "disgusted": (120, 170, 70), "fearful": (205, 215, 250), "sad": (130, 155, 205)}
SKINS = ((250, 220, 192), (240, 196, 162), (222, 172, 128), (196, 136, 96), (168, 114, 80))
HAIRS = ((38, 30, 30), (78, 50, 32), (122, 72, 40), (212, 172, 96), (168, 70, 36), (160, 160, 166))
BACKGROUNDS = ((170, 206, 232), (238, 212, 172), (196, 224, 188), (220, 198, 228), (240, 232, 206), (186, 194, 206))
SHIRTS = ((66, 88, 144), (152, 68, 74), (66, 122, 96), (106, 90, 132), (218, 218, 212))
IRISES = ((48, 32, 24), (84, 54, 30), (42, 84, 62), (44, 78, 122))
INK, WHITE, WATER = (36, 24, 24), (253, 253, 251), (64, 146, 240)
LIP, THROAT, ROSE = (158, 58, 62), (88, 18, 28), (236, 96, 96)


class Person(NamedTuple):
    """Whose face it is and how it is filmed; nothing of it depends on the expression."""

    skin: Colour
    hair: Colour
    background: Colour
    shirt: Colour
    iris: Colour
    style: int
    """Of the hair: 0 short, 1 long, 2 a bun, 3 none."""
    x: float
    y: float
    scale: float  # half of the head's height; like its centre x and y in widths of the picture
    side: int
    """1 or -1: which corner of the mouth can curl up."""
    onset: float
    """Share of the clip before the face begins to move."""
    phase: float  # of the small movements, in radians


def draw_clip(
    path: Path, expression: str, rng: np.random.Generator, seconds: float = 2.0, fps: int = 8, size: int = 56
) -> None:
    """Write an .mp4 clip of somebody whose neutral face moves into an expression.

    The same state of `rng` gives the same bytes on one machine with one version of PyAV.

    Args:
        path: The file; its folder exists, and a file of that name is replaced.
        expression: One of `EXPRESSIONS`.
        rng: Draws who it is and how they move.
        seconds: Length of the clip.
        fps: Frames per second.
        size: Width and height in pixels, an even number.

    Raises:
        ValueError: An unknown expression, an odd size, or less than one frame.
        ModuleNotFoundError: PyAV is not installed.
    """
    if expression not in EXPRESSIONS:
        raise ValueError(f"expression must be one of {', '.join(EXPRESSIONS)}, got {expression!r}.")
    if size < 16 or size % 2:
        raise ValueError(f"size must be an even number of pixels (yuv420p), at least 16, got {size}.")
    count = round(seconds * fps)
    if count < 1:
        raise ValueError(f"expected at least one frame, got {seconds} s at {fps} frames per second.")
    person = _person(rng)
    _encode(path, [_frame(expression, person, index / count, seconds, size) for index in range(count)], fps)


def _person(rng: np.random.Generator) -> Person:
    def one(colours: tuple[Colour, ...]) -> Colour:
        red, green, blue = np.clip(np.array(colours[rng.integers(len(colours))]) + rng.integers(-10, 11, 3), 0, 255)
        return int(red), int(green), int(blue)

    return Person(
        skin=one(SKINS),
        hair=one(HAIRS),
        style=int(rng.integers(4)),
        background=one(BACKGROUNDS),
        shirt=one(SHIRTS),
        iris=one(IRISES),
        x=float(rng.uniform(0.46, 0.54)),
        y=float(rng.uniform(0.5, 0.54)),
        scale=float(rng.uniform(0.38, 0.42)),
        side=int(rng.choice((-1, 1))),
        onset=float(rng.uniform(0.04, 0.1)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


def _frame(expression: str, person: Person, moment: float, seconds: float, size: int) -> NDArray[np.uint8]:
    """The picture [size, size, 3] at a moment, a share of the clip."""
    rise = min(max((moment - person.onset) / RISE, 0.0), 1.0)
    lively = 1 - 0.03 * (1 + math.sin(5 * moment * seconds + person.phase))
    amount = rise * rise * (3 - 2 * rise) * lively
    look = Look(
        *(rest + amount * (full - rest) for rest, full in zip(LOOKS["neutral"], LOOKS[expression], strict=True))
    )
    edge = size * OVERSAMPLING
    image = Image.new("RGB", (edge, edge), person.background)
    sway = 0.012 * math.sin(2.2 * moment * seconds + person.phase)
    shake = look.shake * math.sin(21 * moment * seconds + person.phase)
    x, y = person.x + (sway + shake) * person.scale, person.y + look.sink * person.scale
    pen = _Pen(ImageDraw.Draw(image), x * edge, y * edge, person.scale * edge)
    skin = _mix(person.skin, TINTS.get(expression, person.skin), look.tint)
    _draw_head(pen, look, person, skin)
    _draw_eyes(pen, look, person)
    _draw_mouth(pen, look, person)
    _draw_water(pen, look, moment * seconds)
    return np.asarray(image.reduce(OVERSAMPLING))


class _Pen(NamedTuple):
    """Draws in the face's own units: the head goes from -1 to 1 in height, y downwards."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    scale: float

    def oval(self, x: float, y: float, width: float, height: float, fill: Colour) -> None:
        """An ellipse by its centre and its half axes."""
        (left, top), (right, bottom) = self._placed([(x - width, y - height), (x + width, y + height)])
        self.draw.ellipse((left, top, right, bottom), fill=fill)

    def area(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon(self._placed(points), fill=fill)

    def stroke(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        """A line through points."""
        self.draw.line(self._placed(points), fill=fill, width=max(round(width * self.scale), 1))

    def _placed(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self.x + x * self.scale, self.y + y * self.scale) for x, y in points]


def _mix(first: Colour, second: Colour, amount: float) -> Colour:
    red, green, blue = (round(a + amount * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _draw_head(pen: _Pen, look: Look, person: Person, skin: Colour) -> None:
    shade = _mix(skin, INK, 0.16)
    if person.style == 1:
        pen.oval(0, 0.1, 1.0, 1.2, person.hair)
    if person.style == 2:
        pen.oval(0, -1.05, 0.3, 0.28, person.hair)
    pen.oval(0, 1.75, 1.15, 0.7, person.shirt)
    pen.oval(0, 1.0, 0.3, 0.35, shade)
    if person.style != 3:
        pen.oval(0, -0.2, 0.92, 0.92, person.hair)
    pen.oval(0, 0.02, 0.95, 0.18, shade)  # the ears: what the face leaves of it
    pen.oval(0, 0.06 + look.jaw / 2, 0.82, 0.94 + look.jaw / 2, skin)
    for side in (-1, 1):
        pen.oval(side * 0.55, 0.3, 0.19 * look.blush, 0.13 * look.blush, _mix(skin, ROSE, 0.65))
    pen.stroke([(0.02, 0.0), (0.07, 0.22), (-0.05, 0.24)], 0.05, _mix(skin, INK, 0.4))
    if look.sneer > 0.1:
        for height in (-0.06, 0.06):
            pen.stroke([(-0.13, height - 0.03), (0, height + 0.03), (0.13, height - 0.03)], 0.05, _mix(skin, INK, 0.5))


def _draw_eyes(pen: _Pen, look: Look, person: Person) -> None:
    for side in (-1, 1):
        x, y, width, height = side * 0.36, -0.14, 0.2, 0.2 * look.eye_open
        pen.oval(x, y, width + 0.035, height + 0.035, INK)
        pen.oval(x, y, width, height, WHITE)
        pen.oval(x, y, look.iris, min(look.iris, height), person.iris)
        pen.oval(x, y, look.iris * 0.55, min(look.iris * 0.55, height), INK)
        top = -0.5 - look.brow_up
        inner, middle, outer = top + look.brow_frown, top - 0.05, top - look.brow_frown * 0.6
        pen.stroke(
            [(side * 0.12, inner), (side * 0.36, middle), (side * 0.62, outer)], 0.12, _mix(person.hair, INK, 0.6)
        )


def _draw_mouth(pen: _Pen, look: Look, person: Person) -> None:
    power = 2 + 6 * look.mouth_square
    # A grin opens downwards: its upper lip stays near the line between the corners.
    above = min(max(1 - 4 * look.mouth_smile, 0.15), 1.0)
    upper, lower, bite = [], [], []
    for step in range(-8, 9):
        at = step / 8
        middle = 0.5 + 0.6 * look.jaw + look.mouth_smile * (0.5 - at * at) + look.mouth_wave * math.sin(7 * at)
        middle -= look.sneer * max(at * person.side, 0.0) ** 2
        half = look.mouth_open * (1 - abs(at) ** power) ** (1 / power)
        x = look.mouth_width * at
        upper.append((x, middle - above * half))
        lower.append((x, middle + half))
        bite.append((x, middle - above * half + look.teeth * (1 + above) * half))
    pen.area(upper + lower[::-1], THROAT)
    if look.teeth > 0.1:
        pen.area(upper + bite[::-1], WHITE)
        if look.mouth_square > 0.5:
            pen.stroke([((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in zip(upper, lower, strict=True)], 0.035, INK)
    pen.stroke([*upper, *lower[::-1], upper[0]], 0.075, LIP)


def _draw_water(pen: _Pen, look: Look, second: float) -> None:
    if look.tears > 0.1:
        for side in (-1, 1):
            pen.oval(side * 0.42, 0.08 + 0.25 * look.tears, 0.075, 0.28 * look.tears, WATER)
            fall = (second * 0.9 + 0.25 * side) % 1
            pen.oval(side * 0.44, 0.3 + 0.6 * fall, 0.08, 0.11, WATER)
    if look.sweat > 0.1:
        for side, start in ((1, -0.5), (-1, -0.35)):
            y = start + 0.12 * second
            pen.area([(side * 0.7, y - 0.24), (side * 0.7 - 0.1, y), (side * 0.7 + 0.1, y)], WATER)
            pen.oval(side * 0.7, y, 0.105, 0.1, WATER)


def _encode(path: Path, frames: list[NDArray[np.uint8]], fps: int) -> None:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("clips need PyAV: pip install 'cair-lightning[world]'", name=error.name) from error
    # With the macroblock tree x264 gave now one file, now another for one input. Builds without GPL parts lack x264.
    h264 = {"preset": "veryfast", "crf": "26", "threads": "1", "x264-params": "mbtree=0:bframes=0:rc-lookahead=0"}
    codec: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = h264 if codec == "libx264" else {"threads": "1", "global_quality": "472", "flags": "+qscale"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
