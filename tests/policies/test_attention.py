import importlib.util

import pytest
import torch

from cair_lightning.policies.attention import additive, causal, resolve_attention, whole_row

HAS_FLASH = importlib.util.find_spec("flash_attn") is not None


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_both_towers_take_what_is_asked_for(name) -> None:
    assert resolve_attention(name) == {"text_config": name, "vision_config": name}


@pytest.mark.skipif(HAS_FLASH, reason="flash-attention is installed")
def test_without_flash_attention_auto_is_sdpa_and_says_so_and_asking_for_it_is_refused(caplog) -> None:
    with caplog.at_level("INFO"):
        assert resolve_attention("auto") == {"text_config": "sdpa", "vision_config": "sdpa"}
    assert "auto takes sdpa" in caplog.text
    with pytest.raises(ImportError, match=r"pip install cair-lightning\[flash\]"):
        resolve_attention("flash_attention_2")


@pytest.mark.skipif(not HAS_FLASH, reason="flash-attention is not installed")
def test_flash_attention_is_for_the_vision_tower() -> None:
    assert resolve_attention("flash_attention_2") == {"text_config": "sdpa", "vision_config": "flash_attention_2"}


def test_prompt_tokens_see_what_is_before_them_and_padding_only_itself() -> None:
    assert causal(torch.tensor([[False, True, True]])).int().tolist() == [[[1, 0, 0], [0, 1, 0], [0, 1, 1]]]


def test_a_packed_row_hides_the_branches_from_the_prompt() -> None:
    branches = torch.tensor([[[False, True, True, False], [False, True, False, True]]])
    assert whole_row(torch.tensor([[False, True]]), branches).int().tolist() == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    ]


def test_additive_mask_of_each_type() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        mask = additive(torch.tensor([True, False]), dtype)
        assert mask.tolist() == [0, torch.finfo(dtype).min]
        assert mask.dtype == dtype
