"""Clips are written with PyAV, every frame in a grey of its own, and the greys are read back."""

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cair_lightning.clips import ClipError, Frames, read_clip

av = pytest.importorskip("av", reason="PyAV writes the clips")
pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows only")

SIZE = 32


def write_clip(path: Path, pts: list[int], fps: int = 10, codec: str = "libx264", **options: str) -> Path:
    """Frame i is grey 5 * i (below 50 frames) and appears at pts[i] / 100 s."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", 12, 2
        stream.codec_context.time_base = Fraction(1, 100)
        for index, stamp in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 5 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def steady(frames: int, gap: int = 10) -> list[int]:
    return list(range(0, frames * gap, gap))


def indices(clip: Frames) -> list[int]:
    """Which frames of the written clip these are, told by their grey."""
    return [round(float(frame.mean()) / 5) for frame in clip.frames]


@pytest.fixture
def clip(tmp_path) -> Path:
    """4 s at 10 frames per second."""
    return write_clip(tmp_path / "steady.mp4", steady(40))


def test_wanted_rate_takes_every_fifth_frame(clip) -> None:
    got = read_clip(clip, None, None, fps=2, max_frames=100)
    assert got.frames.shape == (8, SIZE, SIZE, 3)
    assert got.frames.dtype == np.uint8
    assert indices(got) == [0, 5, 10, 15, 20, 25, 30, 35]
    np.testing.assert_allclose(got.times, np.arange(8) / 2, atol=1e-6)
    assert got.times.dtype == np.float64
    assert got.sampled_fps == 2


def test_interval_is_half_open(clip) -> None:
    got = read_clip(clip, 1.0, 3.0, fps=2, max_frames=100)
    assert indices(got) == [10, 15, 20, 25]
    assert got.sampled_fps == 2


def test_frame_before_the_start_is_still_on_screen(clip) -> None:
    got = read_clip(clip, 0.95, 1.95, fps=2, max_frames=100)
    assert indices(got) == [9, 14]
    np.testing.assert_allclose(got.times, [0.9, 1.4], atol=1e-6)


def test_end_behind_the_clip_is_the_clips_end(clip) -> None:
    got = read_clip(clip, 3.0, 60.0, fps=2, max_frames=100)
    assert indices(got) == [30, 35]
    assert got.sampled_fps == 2


def test_cap_spreads_the_frames_over_the_whole_span(clip) -> None:
    got = read_clip(clip, None, None, fps=10, max_frames=5)
    assert indices(got) == [0, 10, 20, 30]
    assert got.sampled_fps == 1


@pytest.mark.parametrize(("end", "count"), [(2.3, 4), (2.6, 6), (0.1, 2)])
def test_count_is_the_nearest_multiple_and_the_rate_says_so(clip, end, count) -> None:
    """2.3 s at 2 fps are 4.6 frames, nearest to 4; 2.6 s are 5.2, nearest to 6; a patch is the least."""
    got = read_clip(clip, None, end, fps=2, max_frames=100)
    assert len(got.frames) == count
    assert got.sampled_fps == pytest.approx(count / end)
    assert got.times[-1] <= end


def test_temporal_patch_divides_the_count(clip) -> None:
    assert len(read_clip(clip, None, 2.5, fps=4, max_frames=100, temporal_patch=3).frames) == 9
    assert len(read_clip(clip, None, 2.5, fps=4, max_frames=100, temporal_patch=1).frames) == 10
    assert len(read_clip(clip, None, 2.5, fps=4, max_frames=8, temporal_patch=3).frames) == 6


def test_rate_above_the_native_one_invents_no_frames(clip) -> None:
    got = read_clip(clip, None, None, fps=30, max_frames=1000)
    assert indices(got) == list(range(40))
    assert got.sampled_fps == 10
    got = read_clip(clip, 0.05, 1.0, fps=30, max_frames=1000, temporal_patch=1)
    assert indices(got) == sorted(set(indices(got)))
    assert got.sampled_fps == pytest.approx(9 / 0.95)


def test_variable_frame_rate_is_sampled_as_seen(tmp_path) -> None:
    """Frame 3 stays on screen from 0.3 s to 2 s; 30 frames in 4.6 s are enough for 2 per second."""
    stamps = [0, 10, 20, 30, *range(200, 460, 10)]
    got = read_clip(write_clip(tmp_path / "vfr.mp4", stamps), 0.0, 4.0, fps=2, max_frames=100)
    assert indices(got) == [0, 3, 3, 3, 4, 9, 14, 19]
    np.testing.assert_allclose(got.times, [0, 0.3, 0.3, 0.3, 2.0, 2.5, 3.0, 3.5], atol=1e-6)
    assert got.sampled_fps == 2


def test_slide_show_is_not_sampled_more_often_than_it_changes(tmp_path) -> None:
    got = read_clip(write_clip(tmp_path / "slides.mp4", [0, 300, 600, 900]), 0.0, 8.0, fps=2, max_frames=100)
    assert len(got.frames) == 2
    assert got.sampled_fps == 2 / 8


def test_late_first_frame_is_second_zero(tmp_path) -> None:
    late = write_clip(tmp_path / "late.mkv", [stamp + 130 for stamp in steady(20)])
    got = read_clip(late, None, None, fps=5, max_frames=100)
    assert indices(got) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert got.times[0] == 0


def test_single_frame_is_repeated(tmp_path) -> None:
    got = read_clip(write_clip(tmp_path / "one.mp4", [0]), None, None, fps=2, max_frames=8)
    assert got.frames.shape[0] == 2
    assert np.array_equal(got.frames[0], got.frames[1])
    assert got.times.tolist() == [0, 0]
    assert got.sampled_fps == pytest.approx(20)  # two frames in the tenth of a second that the clip lasts


@pytest.mark.parametrize("name", ["none.mp4", "none.mkv", "none.avi"])
def test_a_clip_without_frames_is_refused(tmp_path, name) -> None:
    assert refusal(write_clip(tmp_path / name, []))


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mov"])
def test_sampled_frames_are_those_of_a_sequential_decoder(tmp_path, name) -> None:
    path = write_clip(tmp_path / name, steady(45))
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    got = read_clip(path, 1.3, None, fps=3, max_frames=100)
    for frame, second in zip(got.frames, got.times, strict=True):
        assert np.abs(frame.astype(int) - every[round(second * 10)].astype(int)).max() <= 2


def test_result_and_error_survive_a_worker_process(clip, tmp_path) -> None:
    got = read_clip(clip, None, None, fps=2, max_frames=4)
    again = pickle.loads(pickle.dumps(got))
    assert np.array_equal(again.frames, got.frames)
    with pytest.raises(ClipError) as caught:
        read_clip(tmp_path / "gone.mp4", None, None, fps=2, max_frames=4)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.path, error.reason) == (tmp_path / "gone.mp4", caught.value.reason)
    assert str(error) == f"{error.path}: {error.reason}"


def refusal(path: Path, start: float | None = None, end: float | None = None) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip(path, start, end, fps=10, max_frames=100)
    assert caught.value.path == path
    return caught.value.reason


def test_missing_empty_and_foreign_files(tmp_path, clip) -> None:
    assert "no such file" in refusal(tmp_path / "gone.mp4")
    assert "cannot be read" in refusal(tmp_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    assert "0 bytes" in refusal(broken)
    broken.write_text("not a video")
    assert "moov atom not found" in refusal(broken)


def test_download_that_broke_off(tmp_path) -> None:
    whole = write_clip(tmp_path / "whole.mov", steady(40)).read_bytes()  # .mov: the index is at the end
    cut = tmp_path / "cut.mov"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "moov atom not found" in refusal(cut)


def test_noise_in_the_middle_is_an_error(clip) -> None:
    data = bytearray(clip.read_bytes())
    packets = data.index(b"mdat")
    middle = packets + (len(data) - packets) * 3 // 4
    data[middle : middle + 100] = np.random.default_rng(0).bytes(100)
    clip.write_bytes(data)
    assert "decoding broke off" in refusal(clip)


def test_containers_of_which_decord_returns_wrong_frames(tmp_path) -> None:
    assert "transport stream" in refusal(write_clip(tmp_path / "clip.ts", steady(20)))


def test_avi_that_leaves_out_frames_is_refused(tmp_path) -> None:
    """Of 100 frames a second every tenth is there; behind each of the 20, AVI stores 9 of no size."""
    assert "it leaves out 180 frames" in refusal(write_clip(tmp_path / "clip.avi", steady(20)))


@pytest.mark.parametrize("b_frames", [0, 2])
def test_parts_of_mpeg4_films_in_avi_are_pyavs_frames(tmp_path, b_frames) -> None:
    """IEMOCAP's films: MPEG-4 part 2, in which decord alone lands some frames off after a seek."""
    path = tmp_path / "film.avi"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10, options={"bf": str(b_frames), "qmin": "1", "qmax": "2"})
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.gop_size, stream.codec_context.codec_tag = "yuv420p", 12, "XVID"
        for grey in range(120):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 2 * grey, np.uint8), "rgb24")))
        film.mux(stream.encode())
    with av.open(str(path)) as film:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    for start, end in ((None, None), (0.0, 1.0), (4.0, 7.0), (9.5, 11.5)):
        got = read_clip(path, start, end, fps=5, max_frames=200)
        wanted = [shown[round(10 * t)] for t in got.times]
        assert max(np.abs(a - b).mean() for a, b in zip(got.frames.astype(int), wanted, strict=True)) < 1.0


@pytest.mark.parametrize(("width", "half"), [(64, 32), (65, 32)])
def test_a_half_of_the_picture_is_cut_out(tmp_path, width, half) -> None:
    """The middle column of an odd width belongs to neither half."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, SIZE, "bgr0"
        picture = np.zeros((SIZE, width, 3), np.uint8)
        picture[:, :half], picture[:, width - half :] = 50, 200
        for _ in range(4):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="bgr0")))
        film.mux(stream.encode())
    whole, left, right = (read_clip(path, None, None, 10, 4, crop=crop).frames for crop in (None, "left", "right"))
    assert (whole.shape[2], left.shape[2], right.shape[2]) == (width, half, half)
    assert set(np.unique(left)) == {50}
    assert set(np.unique(right)) == {200}


def test_a_file_that_breaks_off_has_no_moov_atom(tmp_path) -> None:
    path = write_clip(tmp_path / "whole.mp4", steady(20))
    path.write_bytes(path.read_bytes()[:200])
    assert "moov atom not found" in refusal(path)


def test_interval_outside_the_clip(clip) -> None:
    assert refusal(clip, start=4.0) == "the sample starts at 4 s, but the clip lasts 4.000 s"
    assert "no frames in [2.0, 2.0)" in refusal(clip, start=2.0, end=2.0)
    assert "no frames in [2.0, 1.0)" in refusal(clip, start=2.0, end=1.0)
    assert "no frames in [nan, None)" in refusal(clip, start=float("nan"))


@pytest.mark.parametrize(
    ("fps", "max_frames", "temporal_patch", "message"),
    [
        (0, 8, 2, "fps must be"),
        (float("inf"), 8, 2, "fps must be"),
        (2, 1, 2, "max_frames must hold one temporal patch of 2 frames, got 1"),
        (2, 8, 0, "temporal_patch must be at least 1"),
    ],
)
def test_settings_that_no_clip_can_meet(clip, fps, max_frames, temporal_patch, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_clip(clip, None, None, fps, max_frames, temporal_patch)
