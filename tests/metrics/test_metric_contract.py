"""What holds for every metric: batches, ranks, copies and resets do not change a value.

Run as a script, this file is one of the two processes of `test_two_processes_agree_with_one`.
"""

import inspect
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from cair_lightning.metrics import (
    BeliefCalibration,
    EmotionAccuracy,
    FaithF1,
    InformationGain,
    InterquartileRange,
    LeakRate,
    LogRatio,
    RougeL,
)

ROOT = Path(__file__).parents[2]


def words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


def belief(*logits: float) -> Tensor:
    return torch.tensor(logits, dtype=torch.float32).softmax(0)


P_OBS = [belief(0, 1), belief(2, 0, 1), belief(0, 0, 0, 0), belief(3, 1), belief(-1, 1, 2)]
P_INT = [belief(0, 3), belief(2, 2, 1), belief(9, 0, 0, 0), belief(1, 1), belief(-1, 5, 2)]
TARGETS = [1, 0, 3, 0, 2]
EMOTIONS = ["happy", "sad", "sad", "fear", "happy"]
TEXTS = ["he lost his job", None, "her friend lied to her", "", "they won the match"]
REFERENCES = ["he lost a job", "she left", "the friend lied", "nobody came", "a match was won"]

# Name -> constructor and the samples, each the arguments of an update with that sample alone but for the list around.
STREAMS: dict[str, tuple[Callable[[], Metric], list[tuple[Any, ...]]]] = {
    "InformationGain": (InformationGain, list(zip(P_OBS, P_INT, strict=True))),
    "LogRatio": (LogRatio, list(zip(P_OBS, P_INT, TARGETS, strict=True))),
    "BeliefCalibration": (BeliefCalibration, list(zip(P_INT, TARGETS, strict=True))),
    "FaithF1": (lambda: FaithF1(words), list(zip(TEXTS, words(REFERENCES), strict=True))),
    "RougeL": (RougeL, list(zip(TEXTS, REFERENCES, strict=True))),
    "EmotionAccuracy": (
        lambda: EmotionAccuracy(["fear", "happy", "sad"]),
        list(zip([True, False, None, True, None], EMOTIONS, strict=True)),
    ),
    "LeakRate": (LeakRate, [(True,), (False,), (False,), (True,), (False,)]),
    "InterquartileRange": (lambda: InterquartileRange(scale=100), [(0.1,), (0.75,), (0.2,), (0.4,), (0.9,)]),
}


def feed(metric: Metric, samples: list[tuple[Any, ...]]) -> None:
    metric.update(*(list(argument) for argument in zip(*samples, strict=True)))


def result(metric: Metric) -> dict[str, float]:
    value = metric.compute()
    return {name: v.item() for name, v in value.items()} if isinstance(value, dict) else {"value": value.item()}


def whole(name: str) -> dict[str, float]:
    create, samples = STREAMS[name]
    metric = create()
    feed(metric, samples)
    return result(metric)


each_metric = pytest.mark.parametrize("name", STREAMS)


@each_metric
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_split_into_batches_does_not_matter(name: str, size: int) -> None:
    create, samples = STREAMS[name]
    metric = create()
    for start in range(0, len(samples), size):
        feed(metric, samples[start : start + size])
    assert result(metric) == pytest.approx(whole(name), rel=1e-12)
    assert not any(math.isnan(value) for value in whole(name).values())


@each_metric
def test_forward_returns_the_batch_and_keeps_the_sum(name: str) -> None:
    create, samples = STREAMS[name]
    metric, first = create(), create()
    feed(first, samples[:2])
    value = metric(*(list(argument) for argument in zip(*samples[:2], strict=True)))
    value = value if isinstance(value, dict) else {"value": value}
    assert {key: v.item() for key, v in value.items()} == pytest.approx(result(first), rel=1e-12, nan_ok=True)
    feed(metric, samples[2:])
    assert result(metric) == pytest.approx(whole(name), rel=1e-12)


@each_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_seen_is_nan_before_and_after_a_reset(name: str) -> None:
    create, samples = STREAMS[name]
    metric = create()
    assert all(math.isnan(value) for value in result(metric).values())
    feed(metric, samples)
    metric.reset()
    assert all(math.isnan(value) for value in result(metric).values())
    feed(metric, samples)
    assert result(metric) == pytest.approx(whole(name), rel=1e-12)


@each_metric
def test_an_empty_batch_adds_nothing(name: str) -> None:
    create, samples = STREAMS[name]
    metric = create()
    feed(metric, samples)
    metric.update(*([] for _ in samples[0]))
    assert result(metric) == whole(name)


@each_metric
def test_a_pickle_goes_on_where_the_metric_stopped(name: str) -> None:
    create, samples = STREAMS[name]
    metric = create()
    feed(metric, samples[:3])
    restored = pickle.loads(pickle.dumps(metric))
    feed(restored, samples[3:])
    assert result(restored) == pytest.approx(whole(name), rel=1e-12)


@each_metric
def test_a_clone_is_independent(name: str) -> None:
    create, samples = STREAMS[name]
    metric = create()
    feed(metric, samples)
    clone = metric.clone()
    feed(clone, samples[:1])
    assert result(metric) == pytest.approx(whole(name), rel=1e-12)
    assert result(clone) != pytest.approx(whole(name), rel=1e-12)


@each_metric
def test_states_and_properties_are_declared(name: str) -> None:
    metric = STREAMS[name][0]()
    annotated = {state for base in type(metric).__mro__ for state in inspect.get_annotations(base)}
    assert set(metric.metric_state) <= annotated
    assert metric.higher_is_better is not None
    assert metric.is_differentiable is False
    assert metric.full_state_update is False


@each_metric
def test_half_precision_modules_keep_exact_sums(name: str) -> None:
    create, samples = STREAMS[name]
    metric = torch.nn.ModuleDict({"metric": create()}).half()["metric"]
    feed(metric, samples)
    assert result(metric) == whole(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_metric
def test_a_metric_on_the_gpu_takes_beliefs_from_there(name: str) -> None:
    create, samples = STREAMS[name]
    moved = [tuple(value.cuda() if isinstance(value, Tensor) else value for value in sample) for sample in samples]
    metric = create().cuda()
    feed(metric, moved[:2])
    feed(metric, moved[2:])
    assert all(state.device.type == "cuda" for state in metric.metric_state.values() if isinstance(state, Tensor))
    assert result(metric) == pytest.approx(whole(name), rel=1e-12)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=os.environ | {"PYTHONPATH": paths})
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for rank in range(2):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in STREAMS:
            assert got["shared"][name] == pytest.approx(whole(name), rel=1e-12)
            # The second process has seen nothing and takes part in the sum all the same.
            assert got["one rank only"][name] == pytest.approx(whole(name), rel=1e-12)


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    values: dict[str, dict[str, dict[str, float]]] = {"shared": {}, "one rank only": {}}
    for name, (create, samples) in STREAMS.items():
        shared, lonely = create(), create()
        feed(shared, samples[rank::2])
        if rank == 0:
            feed(lonely, samples)
        values["shared"][name] = result(shared)
        values["one rank only"][name] = result(lonely)
    (folder / f"{rank}.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
