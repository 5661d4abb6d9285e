"""A checkpoint that `cair export` wrote answers alike in transformers, in vLLM and here."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from cair_lightning.datamodules.manifest import read_dataset
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import SamplingSettings

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

GREEDY = SamplingSettings(group_size=1, max_new_tokens=24, temperature=0.0)


def test_greedy_tokens_are_the_same(engine, trainer, grpo, curated, servable) -> None:
    """vLLM was started from the folder, and takes its weights by the names in its file."""
    policy = QwenVLPolicy.load(servable).eval()
    manifest = read_dataset(curated, "train")
    examples = [replace(manifest.examples[0], clip=None), *manifest.examples[1:4]]
    prompts = grpo(servable).collator(manifest.clips)([(example, "reason") for example in examples])
    engine.start(trainer(), policy, GREEDY)
    engine.take_weights(load_file(servable / "model.safetensors").items(), 400)
    with policy.scoring():
        begun = engine.begin(policy, prompts, GREEDY, None)
        served = begun(policy.prefill(prompts))
        own = policy.sample(policy.prefill(prompts), 1, 24, 0.0)
    assert torch.equal(served.ids_NT, own.ids_NT)
    assert torch.equal(served.mask_NT, own.mask_NT)

    # transformers by itself, on the prompt without a clip: its positions of videos are not those of training.
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(servable)
    ids = prompts.ids_BL[:1, prompts.mask_BL[0]]
    answer = plain.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=policy.stop_ids,
        suppress_tokens=policy.banned_V.nonzero().flatten().tolist(),
    )  # fmt: skip
    assert answer[0, ids.shape[1] :].tolist() == own.ids(0)
