import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from cair_lightning.policies.byte_level import byte_alphabet, token_bytes
from tests.policies.reference import shared_policy


def test_alphabet_is_that_of_the_tokenizers_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    for character, byte in byte_alphabet().items():
        if byte < 128:  # the spelling of one byte by the library itself
            splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            assert splitter.pre_tokenize_str(chr(byte)) == [(character, (0, 1))]


@given(st.text())
def test_bytes_of_the_tokens_are_those_of_the_text(text) -> None:
    policy = shared_policy()
    ids = policy.encode(text)
    if not set(ids) & set(policy.stop_ids):
        assert b"".join(policy.token_bytes(ids)) == policy.decode(ids).encode()


def test_added_tokens_are_spelt_as_text() -> None:
    assert token_bytes(["Ġé", "<é>"], {"<é>": 1}) == [b" \xe9", "<é>".encode()]


def test_end_of_text_tokens_stand_for_nothing_and_other_control_tokens_for_themselves() -> None:
    policy = shared_policy()
    ids = [policy.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    assert policy.token_bytes(ids) == [b"<|im_start|>", b"", b""]
    assert policy.decode(ids) == "<|im_start|>"


def test_unknown_spelling_is_an_error() -> None:
    with pytest.raises(KeyError):
        token_bytes(["日"], {})
