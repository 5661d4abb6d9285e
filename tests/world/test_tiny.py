import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from cair_lightning.world.tiny import CONTROL_TOKENS, build_model, build_processor, save

CORPUS = ["she lost .</reason><answer>sad</answer>", "he won !</reason><answer>happy</answer>"] * 20
PROCESSOR = build_processor(CORPUS, vocabulary=330)


def test_control_tokens_are_one_id_each_and_known_as_such() -> None:
    tokenizer = PROCESSOR.tokenizer
    ids = [tokenizer(token, add_special_tokens=False).input_ids for token in CONTROL_TOKENS]
    assert all(len(i) == 1 for i in ids)
    assert len({i[0] for i in ids}) == len(CONTROL_TOKENS)
    assert set(CONTROL_TOKENS) <= set(tokenizer.all_special_tokens)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_vocabulary_is_no_larger_than_asked_for_and_has_learned_words() -> None:
    assert len(PROCESSOR.tokenizer) <= 330
    assert PROCESSOR.tokenizer.tokenize("<answer>sad</answer>") == ["<", "answer", ">sad", "</", "answer", ">"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(text) -> None:
    tokenizer = PROCESSOR.tokenizer
    normal = unicodedata.normalize("NFC", text)  # Qwen's tokenizer normalises too
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == normal


def test_the_chat_template_is_laid_out_as_qwens() -> None:
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Hi?"}]}]
    expected = "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Hi?<|im_end|>\n"
    assert PROCESSOR.apply_chat_template(chat) == expected
    assert PROCESSOR.apply_chat_template(chat, add_generation_prompt=True) == expected + "<|im_start|>assistant\n"
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert PROCESSOR.apply_chat_template(plain) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


def test_the_model_is_tiny_and_fits_the_processor() -> None:
    model = build_model(PROCESSOR)
    tokenizer = PROCESSOR.tokenizer
    assert sum(p.numel() for p in model.parameters()) < 1_500_000
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert model.generation_config.eos_token_id == ends
    assert not model.training


@pytest.mark.parametrize(("hidden", "heads"), [(96, 4), (48, 4), (64, 4), (64, 2), (40, 2)])
def test_the_rotary_axes_fill_a_head(hidden, heads) -> None:
    model = build_model(PROCESSOR, hidden=hidden, layers=1, heads=heads)
    sections = model.config.text_config.rope_parameters["mrope_section"]
    assert 2 * sum(sections) == hidden // heads
    assert min(sections) > 0
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, same, other = (build_model(PROCESSOR, hidden=48, layers=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_saved_checkpoint_is_read_by_the_real_classes(tmp_path) -> None:
    model = build_model(PROCESSOR, hidden=48, layers=1)
    save(tmp_path, PROCESSOR, model)
    processor = AutoProcessor.from_pretrained(tmp_path)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    text = "she lost .</reason>é<|im_end|>"
    assert type(processor) is type(PROCESSOR)
    assert processor.tokenizer(text).input_ids == PROCESSOR.tokenizer(text).input_ids
    assert processor.chat_template == PROCESSOR.chat_template
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
