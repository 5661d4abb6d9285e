import pytest

from cair_lightning.metrics import FaithF1, KeywordExtractor


def words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


@pytest.mark.parametrize(
    ("rationale", "reference", "expected"),
    [
        ("lie betray", ["betray", "lie"], 1.0),
        ("lie job", ["betray", "lie"], 0.5),
        ("lie", ["betray", "lie", "friend"], 2 / 4),  # precision 1, recall 1/3
        ("job", ["lie"], 0.0),
        ("", ["lie"], 0.0),
        (None, ["lie"], 0.0),
        ("lie lie lie", ["lie", "lie"], 1.0),  # sets
        ("Lie", ["LIE"], 1.0),
    ],
)
def test_hand_checked(rationale: str | None, reference: list[str], expected: float) -> None:
    metric = FaithF1(words)
    metric.update([rationale], [reference])
    assert metric.compute().item() == pytest.approx(expected)


def test_malformed_completions_count_and_do_not_shift_the_others() -> None:
    metric = FaithF1(words)
    metric.update([None, "lie", None, "job"], [["lie"], ["lie"], ["job"], ["job"]])
    assert metric.compute().item() == 0.5


def test_only_the_best_keywords_count() -> None:
    metric = FaithF1(words, top_n=2)
    metric.update(["a b c"], [["c", "d"]])
    assert metric.compute().item() == 0.0


def test_the_default_extractor_loads_nothing_for_malformed_completions() -> None:
    metric = FaithF1(top_n=3)
    assert isinstance(metric.extractor, KeywordExtractor)
    assert metric.extractor.top_n == 3
    metric.update([None, None], [["lie"], ["job"]])
    assert metric.compute().item() == 0.0
    assert set(vars(metric.extractor)) == {"model", "top_n", "device"}


@pytest.mark.parametrize("references", [[["lie"], []], [["lie"], "lie"]])
def test_a_reference_without_keywords_is_refused(references: list[list[str]]) -> None:
    metric = FaithF1(words)
    with pytest.raises(ValueError, match=r"references\[1\]"):
        metric.update(["lie", "lie"], references)
    assert metric.count == 0


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many rationales as references"):
        FaithF1(words).update(["lie"], [["lie"], ["job"]])


def test_an_extractor_that_loses_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="one list per text, got 1 for 2"):
        FaithF1(lambda texts: [["lie"]]).update(["lie", "job"], [["lie"], ["job"]])


def test_no_keywords_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="top_n"):
        FaithF1(top_n=0)
