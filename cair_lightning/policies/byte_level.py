"""The bytes behind the tokens of a byte-level BPE vocabulary.

Decoded text does not give them back: a sampled token may end in the middle of a character, which decodes to U+FFFD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 bytes are spelt as themselves, the other ones as the characters from U+0100 on.

    >>> byte_alphabet()["a"], byte_alphabet()["Ġ"]
    (97, 32)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


ALPHABET = byte_alphabet()


def token_bytes(tokens: Sequence[str], added: Mapping[str, int]) -> list[bytes]:
    """The bytes of text that each token stands for.

    Args:
        tokens: Tokens as the vocabulary spells them.
        added: Tokens that were added to the vocabulary; these are spelt as plain text.
    """
    return [token.encode() if token in added else bytes(ALPHABET[character] for character in token) for token in tokens]
