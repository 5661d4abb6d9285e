import importlib.util

import pytest
import torch

from cair_lightning.policies.attention import resolve_attention, resolve_tree_attention
from tests.policies.reference import EXAMPLES, collate, shared_policy

HAS_FLASH = importlib.util.find_spec("flash_attn") is not None
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_vision_tower_takes_what_is_asked_for(name) -> None:
    assert resolve_attention(name) == name


@pytest.mark.skipif(HAS_FLASH, reason="flash-attention is installed")
def test_without_flash_attention_auto_is_sdpa_and_says_so_and_asking_for_it_is_refused(caplog) -> None:
    with caplog.at_level("INFO"):
        assert resolve_attention("auto") == "sdpa"
    assert "auto takes sdpa" in caplog.text
    with pytest.raises(ImportError, match=r"pip install cair-lightning\[flash\]"):
        resolve_attention("flash_attention_2")


def test_under_autocast_the_type_that_counts_is_that_of_the_products(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "cair_lightning.policies.qwen.resolve_tree_attention", lambda *args: asked.append(args[2]) or "dense"
    )
    policy, prompts = shared_policy(), collate(EXAMPLES[:1])
    with policy.scoring():
        policy.prefill(prompts)
        with torch.autocast("cpu", torch.bfloat16):
            prefix = policy.prefill(prompts)
    assert asked == [torch.float32, torch.bfloat16]
    assert {x.dtype for pair in prefix.own.keys_values for x in pair} == {torch.bfloat16}


@pytest.mark.skipif(HAS_FLASH, reason="flash-attention is installed")
def test_trees_are_attended_to_by_what_is_there() -> None:
    assert resolve_tree_attention("auto", CPU, torch.float32) == "auto"
    assert resolve_tree_attention("auto", CUDA, torch.bfloat16) == "dense"
    assert resolve_tree_attention("flex", CUDA, torch.bfloat16) == "flex"
    with pytest.raises(ImportError, match=r"pip install cair-lightning\[flash\]"):
        resolve_tree_attention("varlen", CUDA, torch.bfloat16)
    with pytest.raises(ValueError, match="cascade, which needs the CPU"):
        resolve_tree_attention("cascade", CUDA, torch.bfloat16)


def test_with_flash_attention_auto_takes_its_kernel_where_it_runs(monkeypatch) -> None:
    monkeypatch.setattr("cair_lightning.policies.attention.find_spec", lambda name: object())
    assert resolve_tree_attention("auto", CUDA, torch.bfloat16) == "varlen"
    assert resolve_tree_attention("auto", CUDA, torch.float32) == "dense"
    assert resolve_tree_attention("auto", CPU, torch.bfloat16) == "auto"
    for device, dtype in ((CPU, torch.bfloat16), (CUDA, torch.float32)):
        with pytest.raises(ValueError, match="needs CUDA and half precision"):
            resolve_tree_attention("varlen", device, dtype)
