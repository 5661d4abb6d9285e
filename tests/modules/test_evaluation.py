"""Predictions of a real policy, and every metric against numbers worked out by hand."""

import math

import pytest
import torch

from cair_lightning.datamodules.emoreason import EmoReasonEvaluationDataModule, EmoReasonSFTDataModule
from cair_lightning.datamodules.manifest import read_dataset
from cair_lightning.metrics import FaithF1
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.evaluation import (
    EvaluationMetrics,
    Prediction,
    entropy_bits,
    other_rationales,
    predict,
    shuffled,
)
from cair_lightning.modules.settings import EvaluationSettings, PolicySettings
from cair_lightning.parsing import parse
from cair_lightning.policies.batch import Prompts
from cair_lightning.structures import Answer, Example
from cair_lightning.verifier import verify

LABELS = ["sad", "happy", "angry", "tired"]


def prediction(completion: str, p_obs: list[float], p_int: list[float] | None, **changes: object) -> Prediction:
    example = {"id": "x", "question": "?", "candidates": LABELS, "answer": "sad"} | changes
    controls = example.pop("controls", {})
    return Prediction(
        example=Example(**example), completion=completion, answer=parse(completion), p_obs=p_obs, p_int=p_int,
        controls=controls, leaked=example["id"] == "leaky",
    )  # fmt: skip


def handmade() -> list[Prediction]:
    quarter, half, sure = [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
    return [
        prediction(
            "<reason>he lost hope</reason><answer>Sad</answer>", quarter, sure, emotion="sad", load="low",
            rationale="he lost", keywords=["lost", "hope"],
            controls={"masked": half, "shuffled": quarter, "other": None},
        ),
        prediction(
            "<reason>she won</reason><answer>happy</answer>", half, half, id="leaky", emotion="sad", load="high",
            rationale="she lost", keywords=["lose"], controls={"masked": quarter, "shuffled": quarter, "other": half},
        ),
        prediction("<reason>no answer", half, None, emotion="angry", load="high", rationale="a b", keywords=["cry"]),
        prediction("<reason>it is so</reason><answer>sad</answer>", half, sure, controls={"other": quarter}),
    ]  # fmt: skip


def test_metrics_of_a_handful_of_predictions() -> None:
    metrics = EvaluationMetrics(["sad", "angry", "happy"], None)
    metrics.faith_f1 = FaithF1(extractor=lambda texts: [text.split() for text in texts])
    predictions = handmade()
    metrics.update(predictions[:1])
    metrics.update([])
    metrics.update(predictions[1:])
    result = metrics.compute()
    ln2 = math.log(2)
    nll_obs = (2 * ln2 + ln2 + ln2 + ln2) / 4
    expected = {
        "accuracy": 2 / 4, "unparsed_rate": 1 / 4, "format_rate": 3 / 4, "accuracy_reward": 2 / 4,
        "accuracy_low": 1.0, "accuracy_high": 0.0,
        "accuracy/sad": 1 / 2, "accuracy/angry": 0.0, "accuracy/other": 1.0,
        # dH in bits: 2 - 0, 1 - 1, 1 - 0
        "information_gain": (2 + 0 + 1) / 3, "information_gain_low": 2.0, "information_gain_high": 0.0,
        "information_gain_masked": (1 - 1) / 2, "information_gain_shuffled": (0 - 1) / 2,
        "information_gain_other": (0 - 1) / 2,
        # log-ratios in nats: log 4, 0, log 2; masked: log 2, log 1/2
        "log_ratio": (2 * ln2 + 0 + ln2) / 3, "log_ratio_masked": (ln2 - ln2) / 2,
        "leak_rate": 1 / 3,
        # ROUGE-L: "he lost hope" / "he lost" 4/5, "she won" / "she lost" 1/2, malformed 0
        "rouge_l": (0.8 + 0.5 + 0) / 3,
        # keywords: {he lost hope} / {lost hope} 4/5, none, malformed 0
        "faith_f1": (0.8 + 0 + 0) / 3,
        "nll_obs": nll_obs, "nll_int": (0 + ln2 + 0) / 3,
        # P_int(y*) of 1, 0.5, 1: quartiles 0.75 and 1, in points
        "iqr": 25.0,
    }  # fmt: skip
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert result.keys() == expected.keys() | {"ece_obs", "ece_int"}


def test_metrics_of_nothing_are_nan_and_forgetting_works() -> None:
    metrics = EvaluationMetrics(["sad"], None)
    metrics.update(handmade()[:1])
    metrics.reset()
    assert all(math.isnan(value) for value in metrics.compute().values())
    metrics.update([prediction("nothing", [0.25] * 4, None)])
    result = metrics.compute()
    assert result["accuracy"] == 0
    assert result["unparsed_rate"] == 1
    known = {"accuracy", "unparsed_rate", "accuracy/other", "accuracy_reward", "format_rate", "nll_obs", "ece_obs"}
    assert {name for name, value in result.items() if not math.isnan(value)} == known


def test_metrics_follow_the_module_to_a_device() -> None:
    metrics = EvaluationMetrics(["sad"], None).to("meta")
    devices = {state.device.type for m in metrics.grouped for state in m.metric_state.values()}
    assert devices == {"meta"}
    assert len(metrics.grouped) == 2 + 6 + 2


def test_properties_of_a_prediction() -> None:
    right, wrong, malformed, _ = handmade()
    assert (right.correct, wrong.correct, malformed.correct) == (True, False, None)
    assert (right.rationale, malformed.rationale) == ("he lost hope", None)
    assert right.log_ratio == pytest.approx(math.log(4))
    assert malformed.log_ratio is None
    assert right.rewards() == {"accuracy": 1.0, "format": 1.0, "mediation": pytest.approx(math.log(4))}
    assert malformed.rewards() == {"accuracy": 0.0, "format": 0.0, "mediation": None}
    assert entropy_bits(right.p_obs) == 2
    impossible = prediction("<reason>a</reason><answer>b</answer>", [1.0, 0, 0, 0], [0.0, 1, 0, 0])
    assert impossible.log_ratio == pytest.approx(-87.336544)  # log of float32's least normal number, not minus infinity


def test_shuffled_keeps_the_words_and_depends_on_the_seed_alone() -> None:
    text = "one two three four five six seven"
    assert shuffled(text, "a") == shuffled(text, "a")
    assert shuffled(text, "a") != shuffled(text, "b")
    assert sorted(shuffled(text, "a").split()) == sorted(text.split())
    assert shuffled(text, "a") != text


def answer(text: str) -> Answer:
    return Answer(rationale=text, answer="sad", rationale_start=0, rationale_end=0)


@pytest.mark.parametrize(
    ("texts", "valid", "stranger", "expected"),
    [
        ("abc", [True] * 3, None, "bca"),
        ("a-c", [True] * 3, None, "c-a"),
        ("a--", [True] * 3, None, "---"),
        ("a--", [True] * 3, "z", "zzz"),
        ("aba", [True, True, False], None, "ba-"),  # the third one fills the batch up and is the first one again
        ("aa", [True, False], "z", "zz"),
    ],
)
def test_the_other_rationale_is_never_ones_own(texts, valid, stranger, expected) -> None:
    """'-' is malformed, or none."""
    answers = [None if text == "-" else answer(text) for text in texts]
    found = other_rationales(answers, valid, stranger)
    asked = [n for n, text in enumerate(texts) if text != "-" and valid[n]]
    assert ["-" if found[n] is None else found[n] for n in asked] == [expected[n] for n in asked]
    assert not any(found[n] == texts[n] for n in asked)


def prompts_of(module, world, count: int) -> Prompts:
    manifest = read_dataset(world, "train")
    return module.collator(manifest.clips)([(example, "reason") for example in manifest.examples[:count]])


def test_predictions_of_a_policy(world, grpo) -> None:
    module = grpo()
    module.configure_model()
    prompts = prompts_of(module, world, 6)
    prompts.valid_B[2] = False
    settings = EvaluationSettings(max_new_tokens=24)
    found = predict(module.policy, prompts, settings)
    kept = [example.id for n, example in enumerate(prompts.examples) if n != 2]
    assert [p.example.id for p in found] == kept
    formed = [p for p in found if p.answer is not None]
    assert len(formed) >= 3
    for p in found:
        assert math.isclose(sum(p.p_obs), 1)
        assert len(p.p_obs) == len(p.example.candidates)
        assert (p.p_int is None) == (p.answer is None) == (p.controls["masked"] is None)
        assert p.completion == "" or not p.completion.endswith("<|im_end|>")
    for p in formed:
        assert math.isclose(sum(p.p_int), 1)
        assert p.controls.keys() == {"masked", "shuffled", "other"}
        if not p.leaked:
            assert p.controls["masked"] == pytest.approx(p.p_int, abs=1e-4)
    again = predict(module.policy, prompts, settings)
    assert [(p.completion, p.p_int, p.controls) for p in again] == [(p.completion, p.p_int, p.controls) for p in found]
    plain = predict(module.policy, prompts, EvaluationSettings(max_new_tokens=24, controls=False))
    assert [p.completion for p in plain] == [p.completion for p in found]
    assert {name for p in plain for name in p.controls} == {"masked"}


def test_controls_are_what_path_b_reads_after_the_other_rationale(world, grpo) -> None:
    """The control `other` of each sample is the belief after the next one's rationale, read on its own."""
    module = grpo()
    module.configure_model()
    prompts = prompts_of(module, world, 4)
    found = predict(module.policy, prompts, EvaluationSettings(max_new_tokens=24))
    formed = [n for n, p in enumerate(found) if p.answer is not None]
    with module.policy.scoring():
        prefix = module.policy.prefill(prompts)
        completions = module.policy.sample(prefix, 1, 24, 0.0)
        n, m = formed[0], formed[1]
        verdict = verify(module.policy, prefix, completions, 1, {"it": lambda z, row: found[m].rationale})
    size = len(found[n].example.candidates)
    assert found[n].controls["other"] == pytest.approx(verdict.rewritten["it"][n][:size].exp().tolist(), abs=1e-5)


def test_test_run_logs_what_its_predictions_amount_to(world, taught, trainer, vision) -> None:
    settings = EvaluationSettings(keyword_model=None, max_new_tokens=24)
    module = PolicyModule(str(taught), vision=vision, evaluation=settings, max_tokens=512)
    data = EmoReasonEvaluationDataModule(world, batch_size=4, num_workers=0)
    run = trainer()
    (logged,) = run.test(module, data, verbose=False)
    predictions = [p for batch in trainer().predict(module, data) for p in batch]
    assert len(predictions) == 10
    metrics = EvaluationMetrics(module.emotions, None)
    metrics.update(predictions)
    expected = {f"test/{name}": value for name, value in metrics.compute().items() if not math.isnan(value)}
    assert logged == pytest.approx(expected, abs=1e-5)
    assert logged["test/format_rate"] > 0
    assert module.last_metrics.keys() >= {name.removeprefix("test/") for name in logged}


def test_metrics_keep_their_precision_under_bfloat16(world, taught, trainer, vision) -> None:
    """bf16-true makes bfloat16 the default type: a list of probabilities would lose its sum."""
    settings = EvaluationSettings(keyword_model=None, max_new_tokens=24)
    module = PolicyModule(str(taught), PolicySettings(dtype="bfloat16"), vision, evaluation=settings, max_tokens=512)
    data = EmoReasonEvaluationDataModule(world, batch_size=5, num_workers=0)
    run = trainer(precision="bf16-true")
    (logged,) = run.test(module, data, verbose=False)
    predictions = [p for batch in trainer(precision="bf16-true").predict(module, data) for p in batch]
    gains = [entropy_bits(p.p_obs) - entropy_bits(p.p_int) for p in predictions if p.p_int is not None]
    assert logged["test/information_gain"] == pytest.approx(sum(gains) / len(gains), abs=1e-5)
    rewards = [p.rewards()["accuracy"] for p in predictions]
    assert logged["test/accuracy_reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)


def test_validation_during_training_is_logged(world, taught, trainer, sft) -> None:
    run = trainer(max_steps=2, val_check_interval=2)
    module = sft(taught)
    run.fit(module, EmoReasonSFTDataModule(world, batch_size=4, num_workers=0))
    logged = {name for name in run.callback_metrics if name.startswith("val/")}
    assert logged >= {"val/accuracy", "val/format_rate", "val/information_gain", "val/nll_obs"}
    assert not any(torch.isnan(torch.as_tensor(run.callback_metrics[name])) for name in logged)
    assert module.policy.training
