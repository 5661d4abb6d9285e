"""Eq. 6 by hand, the two baselines of Table 4, and that the weights are of the global batch."""

from __future__ import annotations

import math

import pytest
import torch

from cair_lightning.weighting import CognitiveLoadWeighting, CurriculumWeighting, UniformWeighting, Weighting

UNKNOWN = torch.full((3,), math.nan)
MAXIMA = torch.full((3,), math.log(7))
# exp of these is 1, 2, 5.
ENTROPIES = torch.tensor([0.0, math.log(2), math.log(5)])


def test_softmax_of_the_entropies_by_hand() -> None:
    weights = CognitiveLoadWeighting()(ENTROPIES, UNKNOWN, MAXIMA, 0.3)
    torch.testing.assert_close(weights, torch.tensor([1 / 8, 2 / 8, 5 / 8]))


def test_temperature_divides_the_entropies() -> None:
    weights = CognitiveLoadWeighting(tau=0.5)(ENTROPIES, UNKNOWN, MAXIMA, 0.3)
    torch.testing.assert_close(weights, torch.tensor([1 / 30, 4 / 30, 25 / 30]))


def test_mean_one_is_the_same_at_uniforms_size() -> None:
    weights = CognitiveLoadWeighting(scale="mean_one")(ENTROPIES, UNKNOWN, MAXIMA, 0.3)
    torch.testing.assert_close(weights, torch.tensor([3 / 8, 6 / 8, 15 / 8]))
    flat = CognitiveLoadWeighting(tau=1e6, scale="mean_one")(ENTROPIES, UNKNOWN, MAXIMA, 0.3)
    torch.testing.assert_close(flat, UniformWeighting()(ENTROPIES, UNKNOWN, MAXIMA, 0.3), atol=1e-5, rtol=0)


def test_one_ranks_own_prompts_would_give_other_weights() -> None:
    """Why the call wants the gathered batch: with one prompt per rank eq. 6 would say 1 everywhere."""
    whole = CognitiveLoadWeighting()(ENTROPIES, UNKNOWN, MAXIMA, 0.0)
    alone = [
        CognitiveLoadWeighting()(ENTROPIES[i : i + 1], UNKNOWN[:1], MAXIMA[:1], 0.0) for i in range(len(ENTROPIES))
    ]
    assert torch.cat(alone).tolist() == [1.0, 1.0, 1.0]
    assert whole.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("weighting", [CognitiveLoadWeighting(), UniformWeighting()])
@pytest.mark.parametrize("size", [0, 1])
def test_batches_of_none_and_one(weighting, size) -> None:
    entropies = torch.zeros(size)
    assert weighting(entropies, entropies, entropies, 0.0).tolist() == [1.0] * size


def test_uniform_is_one_per_sample_whatever_the_entropies() -> None:
    weights = UniformWeighting()(torch.tensor([0.1, math.nan, 9.0]), UNKNOWN, MAXIMA, 1.0)
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, [1.0, 0.0, 0.0]),  # competence 0.25
        (0.2, [1.0, 0.0, 0.0]),  # 0.25 + 0.75 x 0.4 = 0.55
        (0.25, [1.0, 1.0, 0.0]),  # 0.625
        (0.45, [1.0, 1.0, 0.0]),  # 0.925
        (0.5, [1.0, 1.0, 1.0]),  # full
        (1.0, [1.0, 1.0, 1.0]),
    ],
)
def test_curriculum_admits_the_easy_first(progress, expected) -> None:
    initial = torch.tensor([0.25, 0.6, 1.0]) * math.log(7)
    weights = CurriculumWeighting(start=0.25, full_at=0.5)(UNKNOWN, initial, MAXIMA, progress)
    assert weights.tolist() == expected


def test_curriculum_measures_difficulty_against_the_number_of_candidates() -> None:
    initial, maxima = torch.tensor([0.6, 0.6]), torch.tensor([2, 8]).log()
    weights = CurriculumWeighting(start=0.5)(initial, initial, maxima, 0.0)
    assert weights.tolist() == [0.0, 1.0]  # 0.6 of 0.69 nats is hard, 0.6 of 2.08 is easy


def test_curriculum_is_full_even_where_an_entropy_exceeds_its_maximum_by_rounding() -> None:
    initial = torch.tensor([math.log(7) * (1 + 1e-6)])
    assert CurriculumWeighting()(initial, initial, MAXIMA[:1], 0.5).tolist() == [1.0]


def test_curriculum_without_initial_entropies_names_the_command() -> None:
    initial = torch.tensor([0.1, math.nan, 0.2])
    with pytest.raises(ValueError, match=r"1 of 3 have none; run `cair curate`"):
        CurriculumWeighting()(ENTROPIES, initial, MAXIMA, 1.0)


def test_nan_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        CognitiveLoadWeighting()(UNKNOWN, ENTROPIES, MAXIMA, 0.0)


@pytest.mark.parametrize("weighting", [CognitiveLoadWeighting(), UniformWeighting(), CurriculumWeighting()])
@pytest.mark.parametrize(
    ("initial", "progress"), [(ENTROPIES[:2], 0.0), (ENTROPIES, 1.5), (ENTROPIES, -0.1), (ENTROPIES, math.nan)]
)
def test_arguments_that_do_not_fit_are_refused(weighting: Weighting, initial, progress) -> None:
    with pytest.raises(ValueError, match="expected"):
        weighting(ENTROPIES, initial, MAXIMA, progress)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (CognitiveLoadWeighting, {"tau": 0.0}),
        (CognitiveLoadWeighting, {"tau": math.nan}),
        (CognitiveLoadWeighting, {"scale": "sum"}),
        (CurriculumWeighting, {"start": 1.1}),
        (CurriculumWeighting, {"start": -0.1}),
        (CurriculumWeighting, {"full_at": 0.0}),
        (CurriculumWeighting, {"full_at": 1.1}),
    ],
)
def test_options_out_of_range_are_refused(build, arguments) -> None:
    with pytest.raises(ValueError, match="expected"):
        build(**arguments)


# Its successor `instantiate` came with 4.49, above the floor of setup.cfg.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_yaml_builds_a_weighting() -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--weighting", type=Weighting)
    value = {"class_path": "cair_lightning.weighting.CognitiveLoadWeighting", "init_args": {"scale": "mean_one"}}
    built = parser.instantiate_classes(parser.parse_object({"weighting": value})).weighting
    assert isinstance(built, CognitiveLoadWeighting)
    assert (built.tau, built.scale) == (1.0, "mean_one")
