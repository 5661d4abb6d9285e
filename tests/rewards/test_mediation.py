"""Eq. 4 by hand, the floor of malformed completions, and the three leakage policies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cair_lightning.rewards import causal_mediation, mediation_rewards

ALL = torch.tensor([True, True, True])


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_log_ratio_in_nats() -> None:
    reward = causal_mediation(logs(0.25, 0.5, 0.5), logs(0.5, 0.5, 0.1), clip=None)
    torch.testing.assert_close(reward, torch.tensor([math.log(2), 0.0, -math.log(5)]))


def test_clip_cuts_both_sides() -> None:
    reward = causal_mediation(logs(0.01, 0.5, 0.9), logs(0.9, 0.6, 0.01), clip=2.0)
    torch.testing.assert_close(reward, torch.tensor([2.0, math.log(1.2), -2.0]))


def test_reward_is_float32_whatever_the_beliefs_are() -> None:
    assert causal_mediation(logs(0.5).bfloat16(), logs(0.5).bfloat16(), clip=None).dtype == torch.float32


@pytest.mark.parametrize(("obs", "int_", "clip"), [(logs(0.5), logs(0.5, 0.5), None), (logs(0.5), logs(0.5), -1.0)])
def test_beliefs_that_do_not_fit_and_negative_clips_are_refused(obs, int_, clip) -> None:
    with pytest.raises(ValueError, match="expected"):
        causal_mediation(obs, int_, clip)


def test_malformed_gets_the_floor_of_the_clip() -> None:
    wellformed = torch.tensor([True, False, False])
    log_p_int = torch.tensor([math.log(0.4), math.nan, 0.0])  # a belief without a z is not read
    reward = mediation_rewards(logs(0.2, 0.2, 0.2), log_p_int, wellformed, clip=3.0)
    torch.testing.assert_close(reward, torch.tensor([math.log(2), -3.0, -3.0]))


def test_without_a_clip_malformed_gets_the_lowest_that_was_earned() -> None:
    wellformed = torch.tensor([True, False, True])
    reward = mediation_rewards(logs(0.5, 0.5, 0.5), logs(0.25, 0.9, 0.05), wellformed, clip=None)
    torch.testing.assert_close(reward, torch.tensor([math.log(0.5), math.log(0.1), math.log(0.1)]))


def test_without_a_clip_malformed_never_gets_more_than_nothing() -> None:
    wellformed = torch.tensor([True, False, True])
    reward = mediation_rewards(logs(0.1, 0.1, 0.1), logs(0.5, 0.5, 0.9), wellformed, clip=None)
    assert reward[1] == 0.0
    none = mediation_rewards(logs(0.1, 0.1), logs(0.5, 0.5), torch.tensor([False, False]), clip=None)
    assert none.tolist() == [0.0, 0.0]


beliefs = st.floats(min_value=-12.0, max_value=0.0)
rows = st.lists(st.tuples(beliefs, beliefs, beliefs, st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(
    rows=rows,
    clip=st.sampled_from([None, 0.0, 0.5, 3.0]),
    leakage=st.sampled_from(["raw", "masked", "penalty"]),
    penalty=st.sampled_from([0.0, 1.0, 20.0]),
)
def test_malformed_never_earns_more_than_wellformed(rows, clip, leakage, penalty) -> None:
    obs, int_, masked, wellformed, leaked = (torch.tensor(column) for column in zip(*rows, strict=True))
    reward = mediation_rewards(
        obs, int_, wellformed, clip=clip, leakage=leakage, leaked_N=leaked, log_p_int_masked_N=masked, penalty=penalty
    )
    assert reward.isfinite().all()
    if wellformed.any() and not wellformed.all():
        assert reward[~wellformed].max() <= reward[wellformed].min()


def test_masked_policy_reads_the_masked_beliefs() -> None:
    obs, int_, masked = logs(0.2, 0.2, 0.2), logs(0.8, 0.8, 0.8), logs(0.4, 0.2, 0.1)
    reward = mediation_rewards(obs, int_, ALL, clip=None, leakage="masked", log_p_int_masked_N=masked)
    torch.testing.assert_close(reward, torch.tensor([math.log(2), 0.0, -math.log(2)]))


def test_penalty_is_subtracted_where_z_leaks_after_the_clip() -> None:
    obs, int_ = logs(0.001, 0.2, 0.9), logs(0.9, 0.4, 0.2)
    leaked = torch.tensor([True, False, True])
    reward = mediation_rewards(obs, int_, ALL, clip=2.0, leakage="penalty", leaked_N=leaked, penalty=1.0)
    # A leak that shoots far above the clip pays all the same, and none is worse than malformed.
    torch.testing.assert_close(reward, torch.tensor([1.0, math.log(2), -2.0]))


def test_raw_policy_ignores_leaks() -> None:
    reward = mediation_rewards(logs(0.2, 0.2, 0.2), logs(0.4, 0.4, 0.4), ALL, clip=None, leaked_N=ALL)
    torch.testing.assert_close(reward, torch.full((3,), math.log(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leakage": "masked"}, "log_p_int_masked_N"),
        ({"leakage": "penalty"}, "leaked_N"),
        ({"leakage": "penalty", "leaked_N": torch.tensor([True])}, "leaked_N"),
        ({"leakage": "hidden"}, "hidden"),
        ({"leakage": "penalty", "leaked_N": ALL, "penalty": -1.0}, "penalty"),
    ],
)
def test_policies_without_what_they_need_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        mediation_rewards(logs(0.2, 0.2, 0.2), logs(0.4, 0.4, 0.4), ALL, clip=None, **options)


def test_flags_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="wellformed_N"):
        mediation_rewards(logs(0.2, 0.2), logs(0.4, 0.4), ALL, clip=None)


@pytest.mark.parametrize("clip", [None, 3.0])
def test_nan_belief_of_a_wellformed_completion_is_refused(clip) -> None:
    with pytest.raises(ValueError, match="finite"):
        mediation_rewards(logs(0.2), torch.tensor([math.nan]), torch.tensor([True]), clip=clip)


def test_impossible_answer_needs_a_clip() -> None:
    obs, int_ = torch.tensor([-math.inf]), logs(0.5)
    assert mediation_rewards(obs, int_, torch.tensor([True]), clip=3.0).tolist() == [3.0]
    with pytest.raises(ValueError, match="clip"):
        mediation_rewards(obs, int_, torch.tensor([True]), clip=None)
