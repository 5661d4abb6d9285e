from pathlib import Path

import numpy as np
import pytest

from cair_lightning.clips import read_clip
from cair_lightning.world.face import EXPRESSIONS, LOOKS, draw_clip

av = pytest.importorskip("av", reason="PyAV is in the extra 'world'")


def drawn(folder: Path, expression: str, seed: int, **settings: int) -> Path:
    path = folder / f"{expression}{seed}.mp4"
    draw_clip(path, expression, np.random.default_rng(seed), **settings)
    return path


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def test_expressions_are_the_seven_in_order() -> None:
    assert EXPRESSIONS == ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
    assert tuple(LOOKS) == EXPRESSIONS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_clip_is_a_small_h264_file(tmp_path, expression) -> None:
    path = drawn(tmp_path, expression, seed=0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate, stream.frames) == (56, 56, 8, 16)
    assert 1_500 < path.stat().st_size < 8_000


def test_settings_reach_the_clip_and_its_reader(tmp_path) -> None:
    path = tmp_path / "long.mp4"
    draw_clip(path, "sad", np.random.default_rng(0), seconds=3.0, fps=4, size=84)
    got = read_clip(path, None, None, fps=2, max_frames=16)
    assert got.frames.shape == (6, 84, 84, 3)
    assert got.times.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert got.sampled_fps == 2


def test_same_generator_state_gives_the_same_bytes(tmp_path) -> None:
    first = drawn(tmp_path, "happy", seed=3).read_bytes()
    assert drawn(tmp_path, "happy", seed=3).read_bytes() == first
    assert drawn(tmp_path, "happy", seed=4).read_bytes() != first
    assert len({drawn(tmp_path, "happy", seed=3).read_bytes() for _ in range(30)}) == 1  # x264 can do otherwise
    rng = np.random.default_rng(3)
    for name in ("a.mp4", "b.mp4"):  # one generator draws another person each time
        draw_clip(tmp_path / name, "happy", rng)
    assert (tmp_path / "a.mp4").read_bytes() == first
    assert (tmp_path / "b.mp4").read_bytes() != first


@pytest.mark.parametrize("expression", [name for name in EXPRESSIONS if name != "neutral"])
def test_face_begins_neutral_and_moves(tmp_path, expression) -> None:
    """The same person acts twice. Mean absolute differences, in grey levels of 255."""
    acting, still = decoded(drawn(tmp_path, expression, seed=1)), decoded(drawn(tmp_path, "neutral", seed=1))
    apart = np.abs(acting - still).mean((1, 2, 3))
    assert apart[0] == 0  # nothing of what is to come is in the first frame
    assert apart[8:].min() > 10
    assert np.abs(still - still[0]).mean() < apart[8:].min() / 2


def test_identity_varies_more_than_noise(tmp_path) -> None:
    people = [decoded(drawn(tmp_path, "neutral", seed))[0] for seed in range(5)]
    assert all(np.abs(a - b).mean() > 5 for i, a in enumerate(people) for b in people[:i])


def test_shapes_alone_tell_the_expressions_apart(tmp_path) -> None:
    """A ridge regression on 14 x 14 grey pixels of change, without colour, knows people that it has never seen."""

    def features(seed: int, expression: str) -> np.ndarray:
        grey = read_clip(drawn(tmp_path, expression, seed), None, None, fps=8, max_frames=16).frames.mean(3)
        change = grey[12] - grey[0]
        return np.append(change.reshape(14, 4, 14, 4).mean((1, 3)).ravel() / 255, 1)

    def people(seeds: range) -> tuple[np.ndarray, np.ndarray]:
        rows = [features(seed, expression) for seed in seeds for expression in EXPRESSIONS]
        return np.array(rows), np.tile(np.arange(7), len(seeds))

    (seen, labels), (unseen, truth) = people(range(14)), people(range(100, 106))
    weights = np.linalg.solve(seen.T @ seen + 0.05 * np.eye(197), seen.T @ np.eye(7)[labels])
    assert ((unseen @ weights).argmax(1) == truth).mean() >= 0.9


def test_mpeg4_where_pyav_was_built_without_libx264(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = drawn(tmp_path, "happy", seed=0)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    got = read_clip(path, None, None, fps=8, max_frames=16)
    assert np.abs(got.frames - decoded(path)).max() <= 3  # no B-frames, with which decord is two frames late


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expression": "bored"}, "expression must be one of angry, disgusted, .*, got 'bored'"),
        ({"size": 57}, "size must be an even number of pixels .*, got 57"),
        ({"seconds": 0.01}, "at least one frame, got 0.01 s at 8"),
    ],
)
def test_clips_that_cannot_be_drawn(tmp_path, settings, message) -> None:
    arguments = {"expression": "sad", "rng": np.random.default_rng(0), **settings}
    with pytest.raises(ValueError, match=message):
        draw_clip(tmp_path / "clip.mp4", **arguments)
    assert not list(tmp_path.iterdir())
