import math

import pytest
import torch

from cair_lightning.metrics import EmotionAccuracy
from cair_lightning.metrics.functional import CORRECT, UNPARSED, WRONG, emotion_counts


def test_a_malformed_answer_is_a_miss_and_is_counted() -> None:
    metric = EmotionAccuracy(["happy", "sad", "fear"])
    metric.update([True, None, False, True, True], ["happy", "happy", "happy", "sad", "happy"])
    value = {name: share.item() for name, share in metric.compute().items()}
    assert math.isnan(value.pop("accuracy/fear"))
    assert value == {"accuracy": 0.6, "unparsed": 0.2, "accuracy/happy": 0.5, "accuracy/sad": 1.0}


def test_counts_have_one_column_per_outcome() -> None:
    counts = emotion_counts([False, None, None, True, True, True], ["sad"] * 6, ["happy", "sad"])
    assert counts[0].sum() == 0
    assert (counts[1, WRONG], counts[1, UNPARSED], counts[1, CORRECT]) == (1, 2, 3)


@pytest.mark.parametrize("emotions", [[], ["sad", "sad"]])
def test_categories_are_named_once(emotions: list[str]) -> None:
    with pytest.raises(ValueError, match="name each category once"):
        EmotionAccuracy(emotions)


def test_an_unknown_emotion_or_a_missing_one_is_refused() -> None:
    metric = EmotionAccuracy(["sad"])
    with pytest.raises(ValueError, match="'angry'"):
        metric.update([True, True], ["sad", "angry"])
    with pytest.raises(ValueError, match="as many outcomes as emotions"):
        metric.update([True, True], ["sad"])
    assert metric.counts.sum() == 0


@pytest.mark.parametrize("outcome", [0.7, 1, "yes", torch.tensor(True)])
def test_an_outcome_is_a_bool_or_none(outcome: object) -> None:
    with pytest.raises(TypeError, match="expected a bool"):
        EmotionAccuracy(["sad"]).update([outcome], ["sad"])  # type: ignore[list-item]
