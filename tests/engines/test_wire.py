"""What is sent for a prompt, and what replies are refused."""

import base64
from dataclasses import replace

import msgpack
import pytest
import torch

from cair_lightning.engines.base import EngineError
from cair_lightning.engines.wire import Request, StaleReplyError, completions_of, packed, requests_of
from cair_lightning.policies.sampling import SamplingSettings
from tests.policies.reference import EXAMPLES, collate, prompt_ids, shared_policy

SEEN, TOLD, WIDE = EXAMPLES
SAMPLING = SamplingSettings(group_size=3, max_new_tokens=4)


def requests(examples, sampling=SAMPLING, seed=0) -> list[Request]:
    randomness = [torch.Generator().manual_seed(seed + n) for n in range(len(examples))]
    return requests_of(shared_policy(), collate(examples), sampling, randomness, "run-0")


def tensor(field) -> torch.Tensor:
    """What vLLM's decoder makes of a field."""
    dtype, shape, raw = field["data"]
    assert raw.code == 3
    return torch.frombuffer(bytearray(raw.data), dtype=getattr(torch, dtype)).view(shape)


def clip(request: Request) -> dict[str, torch.Tensor]:
    (item,) = request.features["kwargs_data"]["video"]
    return {name: tensor(field) for name, field in msgpack.unpackb(base64.b64decode(item)).items()}


def test_ids_and_patches_are_those_that_the_trainer_computes_with() -> None:
    prompts = collate(EXAMPLES)
    for row, (request, example) in enumerate(zip(requests(EXAMPLES), EXAMPLES, strict=True)):
        alone = collate([example])
        assert request.ids == prompt_ids(prompts, row)
        if example.clip is None:
            assert request.features is None
            continue
        sent = clip(request)
        assert torch.equal(sent["pixel_values_videos"], alone.patches)
        assert tuple(sent["video_grid_thw"].tolist()) == alone.grids[0]
        (place,) = request.features["mm_placeholders"]["video"]
        video = shared_policy().model.config.video_token_id
        inside = request.ids[place["offset"] : place["offset"] + place["length"]]
        assert set(inside) == {video}
        assert request.ids.count(video) == len(inside)


@pytest.mark.parametrize("example", [SEEN, WIDE], ids=lambda e: e.id)
def test_vllm_computes_the_positions_of_the_trainer(example) -> None:
    """Its formula, from its source: the index times seconds times rate, cut off."""
    (request,), prompts = requests([example]), collate([example])
    sent = clip(request)
    factor = sent["second_per_grid_ts"].item() * 4
    frames = torch.arange(int(sent["video_grid_thw"][0])).numpy()
    times = (frames * factor).astype(int).tolist()
    is_video = prompts.ids_BL[0] == shared_policy().model.config.video_token_id
    positions = prompts.positions_3BL[0, 0, is_video]
    assert times == sorted(set((positions - positions.min()).tolist()))


def test_a_rounded_time_is_rounded_up_as_the_trainer_does() -> None:
    """2/3 s per grid x 4 per second x 3 grids is 8, and 7.999... as floating point."""
    policy, prompts = shared_policy(), collate([SEEN])
    prompts.seconds_per_grid = [0.1 + 0.2 - 0.05 - 1e-16]  # a hair below 1/4
    (request,) = requests_of(policy, prompts, SAMPLING, None, "run-0")
    assert int(clip(request)["second_per_grid_ts"].item() * 4) == 1


def test_names_of_clips_and_caches_change_with_the_weights() -> None:
    policy, prompts = shared_policy(), collate([SEEN, WIDE, SEEN])
    first = requests_of(policy, prompts, SAMPLING, None, "run-0")
    second = requests_of(policy, prompts, SAMPLING, None, "run-1")
    names = [request.features["mm_hashes"]["video"][0] for request in (*first, *second)]
    assert names[0] == names[2]
    assert len(set(names)) == 4
    assert b'"cache_salt": "run-1"' in second[0].body()


def test_seeds_come_from_the_prompts_own_generators() -> None:
    seeds = [request.parameters["seed"] for request in requests(EXAMPLES)]
    assert len(set(seeds)) == 3
    assert seeds == [request.parameters["seed"] for request in requests(EXAMPLES)]
    assert seeds[1:] == [request.parameters["seed"] for request in requests(EXAMPLES[1:], seed=1)]
    assert "seed" not in requests_of(shared_policy(), collate([SEEN]), SAMPLING, None, "run-0")[0].parameters


def reply(request: Request, **changes) -> dict:
    """A good reply, but for some changes of its first choice."""
    choices = [
        {
            "index": index, "finish_reason": "stop", "token_ids": [5, 6 + index], "weight_versions":
            [{"version": "run-0", "start": 0, "end": 2}],
            "logprobs": {"content": [{"token_id": 5, "logprob": -1.0}, {"token_id": 6, "logprob": -2.0 - index}]},
        }
        for index in range(request.parameters["n"])
    ]  # fmt: skip
    choices[0] |= changes
    return {"choices": choices[::-1], "prompt_token_ids": request.ids}


def test_completions_are_padded_and_know_whether_they_ended() -> None:
    policy, (request,) = shared_policy(), requests([SEEN])
    end = policy.stop_ids[0]
    ended = reply(request, token_ids=[end], logprobs={"content": [{"token_id": end, "logprob": -0.5}]})
    got = completions_of(request.read(ended), policy, torch.device("cpu"))
    pad = policy.tokenizer.pad_token_id
    assert got.ids_NT.tolist() == [[end, pad], [5, 7], [5, 8]]
    assert got.mask_NT.tolist() == [[True, False], [True, True], [True, True]]
    assert got.logps_NT.tolist() == [[-0.5, 0.0], [-1.0, -3.0], [-1.0, -4.0]]
    assert got.truncated_N.tolist() == [False, True, True]


def test_greedy_completions_are_asked_for_once_and_count_for_the_group() -> None:
    (request,) = requests([SEEN], replace(SAMPLING, temperature=0.0))
    assert (request.parameters["n"], request.parameters["temperature"]) == (1, 0.0)
    assert [sample.ids for sample in request.read(reply(request))] == [[5, 6]] * 3


@pytest.mark.parametrize(
    "changes", [{"finish_reason": "abort"}, {"weight_versions": [{"version": "default", "start": 0, "end": 2}]}]
)
def test_other_weights_and_broken_requests_are_asked_again(changes) -> None:
    (request,) = requests([SEEN])
    with pytest.raises(StaleReplyError):
        request.read(reply(request, **changes))


def test_replies_that_do_not_fit_are_refused() -> None:
    (request,) = requests([SEEN])
    banned = int(shared_policy().banned_V.nonzero()[0])
    for changes, message in (
        ({"token_ids": [5]}, "each with its log-probability"),
        ({"token_ids": [5, banned]}, "which are banned"),
        ({"logprobs": None}, "expected choices with token_ids, logprobs and weight_versions"),
    ):
        with pytest.raises(EngineError, match=message):
            request.read(reply(request, **changes))
    with pytest.raises(EngineError, match=r"it read \d+ prompt tokens, and not the"):
        request.read(reply(request) | {"prompt_token_ids": request.ids[1:]})
    with pytest.raises(EngineError, match="expected choices"):
        request.read({"error": "no"})


def test_bytes_of_every_type_survive() -> None:
    for value in (torch.tensor(0.25, dtype=torch.float64), torch.arange(6, dtype=torch.int32).view(2, 3)):
        got = msgpack.unpackb(b"".join(packed({"data": value})))
        assert torch.equal(tensor(got), value)
    with pytest.raises(TypeError, match="expected plain values and tensors, got object"):
        list(packed(object()))
