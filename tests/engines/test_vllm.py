"""Rollouts by a real vLLM server: `make test-vllm`. All tests share one server, which one of them kills."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from lightning import Callback

from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule
from cair_lightning.datamodules.manifest import read_dataset
from cair_lightning.engines.base import EngineError, Sampled
from cair_lightning.engines.client import VLLMServer
from cair_lightning.engines.vllm import VLLMRollouts
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, SamplingSettings
from cair_lightning.rollout import Rollout, completion_logps
from cair_lightning.sharding import each_weight
from tests.memory import Memory

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.usefixtures("vllm_python")]

ROOT = Path(__file__).parents[2]
AGREEMENT = 1e-3
SAMPLING = SamplingSettings(group_size=4, max_new_tokens=24)


class Rollouts(Callback):
    """Keeps what each step was made of."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch.part == 0:
            self.seen.append(pl_module.rollout)


def train(trainer, grpo, memory, curated, servable, engine) -> tuple[Memory, list[Rollout]]:
    """Three steps; what was logged and the rollouts."""
    rollouts = Rollouts()
    run = trainer(max_steps=3, logger=memory(), callbacks=[rollouts])
    data = EmoReasonRLDataModule(curated, batch_size=4, num_workers=0, kept_clips=10)
    run.fit(grpo(servable, rollout_engine=engine), data)
    return run.logger, rollouts.seen


@pytest.fixture(scope="module")
def undisturbed(trainer, grpo, memory, curated, servable, engine) -> tuple[Memory, list[Rollout]]:
    """Three steps in which nothing happens."""
    return train(trainer, grpo, memory, curated, servable, engine)


@pytest.fixture(scope="module")
def policy(servable) -> QwenVLPolicy:
    """Random weights that are large enough for every path to matter, of the server's architecture."""
    policy = QwenVLPolicy.load(servable)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.2 * noise)
    return policy.eval()


@pytest.fixture(scope="module")
def prompts(grpo, curated, servable) -> Prompts:
    """Three prompts with clips and one without."""
    manifest = read_dataset(curated, "train")
    examples = manifest.examples[:4]
    examples[1] = replace(examples[1], clip=None)
    return grpo(servable).collator(manifest.clips)([(example, "reason") for example in examples])


def sampled(engine, policy, prompts, sampling=SAMPLING, seed=0) -> Completions:
    generators = [torch.Generator().manual_seed(seed + n) for n in range(len(prompts))]
    with policy.scoring():
        begun = engine.begin(policy, prompts, sampling, generators)
        return begun(policy.prefill(prompts))


def difference(policy, prompts, completions, temperature) -> float:
    """Largest difference between the trainer's log-probabilities and the server's."""
    with policy.scoring():
        logps_NT = completion_logps(policy, prompts, completions, range(len(prompts)), temperature)
    return float((logps_NT - completions.logps_NT).abs().max())


def test_three_steps_agree_with_the_trainer_before_and_after_each_update(undisturbed) -> None:
    logger, rollouts = undisturbed
    assert list(logger.rows) == [0, 1, 2]
    for row in logger.rows.values():
        assert row["train/engine/logp_difference/max"] < AGREEMENT
        assert 0 <= row["train/engine/logp_difference/mean"] <= row["train/engine/logp_difference/max"]
        assert row["train/engine/logp_difference/share_beyond_1_percent"] == 0
    assert [logger.rows[step]["train/kl"] > 0 for step in (0, 1, 2)] == [False, True, True]  # the weights do change
    assert logger.rows[0]["train/reward/format/mean"] > 0.2
    assert all(rollout.prompts.patches is not None for rollout in rollouts)
    assert any(len(set(map(tuple, r.completions.ids_NT[:4].tolist()))) > 1 for r in rollouts)  # a group is no copy


def test_a_rollout_that_was_sampled_ahead_is_an_update_behind(engine, trainer, grpo, memory, curated, servable) -> None:
    run = trainer(max_steps=3, logger=memory())
    data = EmoReasonRLDataModule(curated, batch_size=4, num_workers=0, kept_clips=10)
    run.fit(grpo(servable, rollout_engine=engine, sample_ahead=True), data)
    largest = list(run.logger.column("train/engine/logp_difference/max").values())
    assert [value > AGREEMENT for value in largest] == [False, True, False]  # an epoch has two rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_log_probabilities_are_those_of_the_whole_distribution(engine, trainer, policy, prompts, temperature) -> None:
    sampling = SamplingSettings(group_size=4, max_new_tokens=24, temperature=temperature)
    engine.start(trainer(), policy, sampling)
    engine.take_weights(each_weight(policy.model), 100)
    first = sampled(engine, policy, prompts, sampling)
    assert difference(policy, prompts, first, temperature) < AGREEMENT
    assert not (policy.banned_V[first.ids_NT] & first.mask_NT).any()
    again = sampled(engine, policy, prompts, sampling)
    assert torch.equal(first.ids_NT, again.ids_NT)
    if temperature:
        assert first.ids_NT.tolist() != sampled(engine, policy, prompts, sampling, seed=10).ids_NT.tolist()
    else:
        own = policy.sample(policy.prefill(prompts), 4, 24, 0.0)
        assert torch.equal(own.ids_NT, first.ids_NT)
        assert torch.equal(own.truncated_N, first.truncated_N)


def test_nothing_of_earlier_weights_is_left(engine, trainer, policy, prompts) -> None:
    """The same prompts and clips under other weights of every part."""
    engine.start(trainer(), policy, SAMPLING)
    engine.take_weights(each_weight(policy.model), 200)
    sampled(engine, policy, prompts)
    for part in (policy.model.model.visual, policy.model.model.language_model):
        kept = {name: value.clone() for name, value in part.state_dict().items()}
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(1.05)
        changed = sampled(engine, policy, prompts)
        assert difference(policy, prompts, changed, 1.0) > 0.01  # the server has the earlier weights
        engine.take_weights(each_weight(policy.model), 201)
        assert difference(policy, prompts, sampled(engine, policy, prompts), 1.0) < AGREEMENT
        part.load_state_dict(kept)


def test_a_server_of_other_weights_is_found_out(engine, trainer, policy, prompts) -> None:
    """Two trainers push to one server: the first one's next rollout is refused, not trained on."""
    engine.start(trainer(), policy, SAMPLING)
    engine.take_weights(each_weight(policy.model), 300)
    (member,) = engine.fleet.members
    runs = [VLLMRollouts(servers=[member.server.url], dtype="float32") for _ in range(2)]
    try:
        for rollouts in runs:
            rollouts.start(trainer(), policy, SAMPLING)
            rollouts.take_weights(each_weight(policy.model), 0)
        assert difference(policy, prompts, sampled(runs[1], policy, prompts), 1.0) < AGREEMENT
        with pytest.raises(EngineError, match=f"{member.server.url} sampled under the weights .* not ours to start"):
            sampled(runs[0], policy, prompts)
    finally:
        for rollouts in runs:
            rollouts.stop()
    sampled(engine, policy, prompts)  # whose own it is: it has its weights again


@pytest.mark.parametrize(("part", "seen"), [("all", "did not answer"), ("engine", "neither read nor drew a token")])
def test_a_server_that_stalls_is_named_within_seconds(engine, trainer, policy, prompts, part, seen) -> None:
    (member,) = engine.fleet.members
    rollouts = VLLMRollouts(servers=[member.server.url], dtype="float32", stall_seconds=4.0)
    server = psutil.Process(member.own._process.pid)
    stopped = server.children(recursive=True) + ([server] if part == "all" else [])
    try:
        rollouts.start(trainer(), policy, SAMPLING)
        rollouts.take_weights(each_weight(policy.model), 0)
        for process in stopped:
            process.suspend()
        begun = time.monotonic()
        with pytest.raises(EngineError, match=f"{member.server.url} {seen} for"):
            sampled(rollouts, policy, prompts)
        assert time.monotonic() - begun < 30
    finally:
        for process in stopped:
            process.resume()
        rollouts.stop()


def test_weights_that_are_broadcast_are_those_of_the_trainer(engine, trainer, policy, prompts) -> None:
    """To a server that was given: twice, and then its own trainer's again, from files."""
    (member,) = engine.fleet.members
    rollouts = VLLMRollouts(servers=[member.server.url], dtype="float32", transfer="broadcast")
    head = policy.model.lm_head.weight
    kept = head.detach().clone()
    try:
        rollouts.start(trainer(), policy, SAMPLING)
        for scale in (1.1, 0.8):
            with torch.no_grad():
                head.copy_(scale * kept)
            rollouts.take_weights(each_weight(policy.model), 0)
            assert difference(policy, prompts, sampled(rollouts, policy, prompts), 1.0) < AGREEMENT
    finally:
        rollouts.stop()
        with torch.no_grad():
            head.copy_(kept)
    engine.start(trainer(), policy, SAMPLING)
    engine.take_weights(each_weight(policy.model), 500)
    assert difference(policy, prompts, sampled(engine, policy, prompts), 1.0) < AGREEMENT


def test_another_model_is_refused(engine, trainer, policy) -> None:
    engine.start(trainer(), policy, SAMPLING)
    server: VLLMServer = engine.fleet.members[0].server
    with pytest.raises(EngineError, match=r"serves another model: vision_config.depth is 2, expected 3"):
        engine._loop.run(server.check({"vision_config": {"depth": 3}}))


def test_too_long_prompts_are_refused(engine, trainer, policy, prompts) -> None:
    engine.start(trainer(), policy, SAMPLING)
    with pytest.raises(ValueError, match=r"the vLLM servers take 512: start them with --max-model-len="):
        sampled(engine, policy, prompts, SamplingSettings(group_size=2, max_new_tokens=500))


TRAINER = """
import sys, time
from pathlib import Path
from cair_lightning.engines.process import OwnServer, OwnSettings
(launch,) = OwnSettings(python=sys.argv[1]).launches(sys.argv[2], "float32", Path(sys.argv[3]))
server = OwnServer(launch)
server.start()
print(server._process.pid, flush=True)
time.sleep(600)
"""


def test_a_server_whose_trainer_is_killed_ends(vllm_python, servable, tmp_path) -> None:
    command = [sys.executable, "-c", TRAINER, vllm_python, str(servable), str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as job:
        server = Path("/proc", job.stdout.readline().decode().strip())
        time.sleep(2)  # it is still starting, and does what SIGTERM says
        assert server.exists()
        job.kill()
    deadline = time.monotonic() + 30
    while server.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not server.exists()


def test_two_ranks_share_a_server(engine, servable, curated, tmp_path) -> None:
    url = engine.fleet.members[0].server.url
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    script = ROOT / "tests/engines/vllm_ranks.py"
    command = [sys.executable, *map(str, (script, servable, curated, tmp_path)), url]
    job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert job.returncode == 0, (job.stdout + job.stderr)[-4000:]
    for strategy in ("ddp", "prefetch"):
        for ahead in (False, True):
            with (tmp_path / f"{strategy}-{ahead}" / "metrics.csv").open() as file:
                largest = [float(row["train/engine/logp_difference/max"]) for row in csv.DictReader(file)]
            assert [value > AGREEMENT for value in largest] == [False, ahead, False]


def test_killing_the_server_in_mid_step_is_survived(
    undisturbed, engine, trainer, grpo, memory, curated, servable, caplog
) -> None:
    """The run goes on as if nothing had happened: the same completions, each of them once."""
    (member,) = engine.fleet.members
    begin, began = engine.begin, []

    def interrupted(*arguments) -> Sampled:
        waiting = begin(*arguments)
        began.append(time.monotonic())
        if len(began) == 2:
            os.killpg(os.getpgid(member.own._process.pid), signal.SIGKILL)
        return waiting

    engine.begin = interrupted
    try:
        logger, rollouts = train(trainer, grpo, memory, curated, servable, engine)
    finally:
        del engine.begin
    assert engine.fleet.restarts == 1
    assert f"The vLLM server at {member.server.url}" in caplog.text
    expected, seen = undisturbed
    for before, after in zip(seen, rollouts, strict=True):
        assert torch.equal(before.completions.ids_NT, after.completions.ids_NT)
        torch.testing.assert_close(before.advantages_N, after.advantages_N, rtol=0, atol=1e-4)
    for step, row in logger.rows.items():
        assert row["train/engine/logp_difference/max"] < AGREEMENT
        assert row["train/loss"] == pytest.approx(expected.rows[step]["train/loss"], abs=1e-5)
