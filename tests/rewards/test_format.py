"""Eq. 3: the indicator is the parser's verdict (test_parsing.py has the lists)."""

from __future__ import annotations

import pytest

from cair_lightning.rewards import format_reward


def test_wellformed_is_one() -> None:
    assert format_reward("<reason>he lost</reason>\n<answer>sad</answer>") == 1.0


@pytest.mark.parametrize(
    "text", ["", "sad", "<answer>sad</answer><reason>he lost</reason>", "<reason></reason><answer>sad</answer>"]
)
def test_malformed_is_zero(text) -> None:
    assert format_reward(text) == 0.0
