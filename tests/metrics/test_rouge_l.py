import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer

from cair_lightning.metrics import RougeL
from cair_lightning.metrics.functional import rouge_l

PREDICTIONS = ["The man is crying because he lost.", "Nobody smiles", "", "he he he lost", "friends lied"]
REFERENCES = ["He cries because the man lost", "she smiled at nobody", "a fight", "he lost", "a friend lies"]


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_agrees_with_rouge_score(use_stemmer: bool) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=use_stemmer)
    expected = [scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert rouge_l(PREDICTIONS, REFERENCES, use_stemmer).tolist() == expected
    metric = RougeL(use_stemmer)
    metric.update(PREDICTIONS, REFERENCES)
    assert metric.compute().item() == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_hand_checked_and_stemmed() -> None:
    # Longest common subsequence "lost job" of 3 and 4 words: precision 2/3, recall 1/2.
    assert rouge_l(["lost his job"], ["she lost her job"]).item() == pytest.approx(4 / 7)
    assert rouge_l(["friends lied"], ["friend lied"]).item() == 0.5
    assert rouge_l(["friends lied"], ["friend lied"], use_stemmer=True).item() == 1.0


def test_a_malformed_completion_scores_zero_and_counts() -> None:
    metric = RougeL()
    metric.update([None, "he lost"], ["he lost", "he lost"])
    assert metric.compute().item() == 0.5


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many predictions as references, got 1 and 2"):
        RougeL().update(["a"], ["a", "b"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ImportError, match="pip install rouge-score"):
        RougeL().update(["a"], ["a"])
