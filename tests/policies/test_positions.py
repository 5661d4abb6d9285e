import itertools
import math
import random
from fractions import Fraction

import pytest
import torch

from cair_lightning.policies.positions import prompt_positions, video_positions
from tests.policies.reference import plain_positions

VIDEO = 7


def tokens(grid, merge=2) -> int:
    return grid[0] * grid[1] * grid[2] // merge**2


def test_one_video_by_hand() -> None:
    """2 grids of 1 x 2 tokens, 1.5 s apart at 2 positions a second, between 2 and 3 tokens of text."""
    ids = torch.tensor([1, 2, VIDEO, VIDEO, VIDEO, VIDEO, 3, 4, 5])
    got = prompt_positions(ids, VIDEO, [(2, 2, 4)], [1.5], 2.0, 2)
    assert got.tolist() == [
        [0, 1, 2, 2, 5, 5, 6, 7, 8],
        [0, 1, 2, 2, 2, 2, 6, 7, 8],
        [0, 1, 2, 3, 2, 3, 6, 7, 8],
    ]


def test_text_alone_counts_up() -> None:
    assert prompt_positions(torch.tensor([1, 2, 3]), VIDEO, [], [], 2.0, 2).tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("seconds", "fps", "times", "text", "following"),
    [
        (10, 2, list(range(16, 35, 2)), 35, 35 + 61),
        (4, 4, list(range(16, 24)), 24, 24 + 61),
        (60, 2, list(range(16, 135, 2)), 135, 196),
    ],
)
def test_cases_that_releases_of_transformers_got_wrong(seconds, fps, times, text, following) -> None:
    """16 tokens of text, a video of 8 x 8 tokens per grid, 61 tokens of text; two positions a second."""
    grid = (seconds * fps // 2, 16, 16)
    ids = torch.tensor([0] * 16 + [VIDEO] * tokens(grid) + [0] * 61)
    got = prompt_positions(ids, VIDEO, [grid], [2 / fps], 2.0, 2)
    assert got[0, 16 : 16 + tokens(grid)].unique().tolist() == times
    assert got[:, 16 + tokens(grid)].tolist() == [text] * 3
    assert int(got.max()) + 1 == following


def test_space_can_reach_further_than_time() -> None:
    got = video_positions((2, 8, 20), 0.5, 2.0, 2)
    assert got.max(1).values.tolist() == [1, 3, 9]
    ids = torch.tensor([VIDEO] * 80 + [0])
    assert prompt_positions(ids, VIDEO, [(2, 8, 20)], [0.5], 2.0, 2)[:, -1].tolist() == [10] * 3


def test_whole_positions_are_not_rounded_down() -> None:
    """1.8 s per grid at 25 positions a second is 45, and 44.99999999999999 in floating point."""
    noisy = 0
    for frames, tenths, rate in itertools.product(range(2, 34, 2), range(5, 200, 3), (2, 4, 25)):
        seconds = 2 / (frames / (tenths / 10))
        exact = [int(Fraction(tenths, 10) * 2 / frames * rate * t) for t in range(frames // 2)]
        assert video_positions((frames // 2, 2, 2), seconds, rate, 2)[0].tolist() == exact
        noisy += [math.floor(t * seconds * rate) for t in range(frames // 2)] != exact
    assert noisy > 10


def test_random_prompts_with_several_videos_follow_the_formula() -> None:
    rng = random.Random(0)
    for _ in range(60):
        ids, videos = [0] * rng.randrange(5), []
        for _ in range(rng.randrange(4)):
            grid = (rng.randrange(1, 9), 2 * rng.randrange(1, 4), 2 * rng.randrange(1, 4))
            frames, span = 2 * grid[0], Fraction(rng.randrange(1, 200_000), 10_000)
            videos.append((grid, 2 * span / frames))
            ids += [VIDEO] * tokens(grid) + [0] * rng.randrange(1, 6)
        rate = rng.choice([2, 4, 25])
        seconds = [float(s) for _, s in videos]
        got = prompt_positions(torch.tensor(ids, dtype=torch.long), VIDEO, [g for g, _ in videos], seconds, rate, 2)
        expected = plain_positions(ids, VIDEO, videos, rate)
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("ids", "grids", "seconds", "message"),
    [
        ([0, VIDEO, 0], [(1, 2, 4)], [1.0], "Expected 2 video tokens at column 1 for grid .1, 2, 4., found 1"),
        ([0, 0], [(1, 2, 4)], [1.0], "Expected 2 video tokens at column 2 .* found 0"),
        ([VIDEO, VIDEO, VIDEO], [(1, 2, 4)], [1.0], "after those of the prompt's 1 grid.*found 1"),
        ([VIDEO, VIDEO], [], [], "after those of the prompt's 0 grid.*found 2"),
        ([VIDEO, 0, VIDEO], [(1, 2, 4)], [1.0], "found 1"),
        ([VIDEO, VIDEO], [(1, 2, 4)], [], "zip"),
    ],
)
def test_placeholders_that_do_not_match_the_grids_are_refused(ids, grids, seconds, message) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_positions(torch.tensor(ids), VIDEO, grids, seconds, 2.0, 2)
