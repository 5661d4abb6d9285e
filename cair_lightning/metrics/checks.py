"""What the metrics refuse, beliefs apart."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from torch import Tensor


def check_same_length(name: str, values: Sized, other_name: str, other_values: Sized) -> None:
    """Refuse lists that do not belong together.

    Raises:
        ValueError: The lengths differ.
    """
    if len(values) != len(other_values):
        raise ValueError(
            f"expected as many {name} as {other_name}, got {len(values)} and {len(other_values)}; pass one of each per "
            "sample, None where a completion was malformed"
        )


def as_bool(value: bool) -> bool:
    """The value itself.

    Raises:
        TypeError: It is no bool: a share or a logit would pass for True.
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"expected a bool, got {value!r} of type {type(value).__name__}; compare it first, or turn a tensor of "
            "bools into a list by .tolist()"
        )
    return value


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Refuse references without keywords.

    Raises:
        ValueError: A reference is a plain string or empty.
    """
    for index, reference in enumerate(references):
        if isinstance(reference, str) or not reference:
            raise ValueError(
                f"expected references[{index}] to be a list of at least one keyword, got {reference!r}; extract "
                "keywords once with `extract_keywords` and leave out samples without any"
            )


def check_finite(values: Tensor) -> None:
    """Refuse values that have no place in an order of real numbers.

    Raises:
        ValueError: A value is nan or infinite.
    """
    finite = values.isfinite()
    if not finite.all():
        raise ValueError(
            f"expected finite values, got {values[~finite][0].item()}; leave such values out and report their number"
        )
