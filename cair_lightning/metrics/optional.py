"""Packages that only some metrics need, imported when a metric first needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def require(module: str, distribution: str) -> Any:  # noqa: ANN401  # these packages carry no types
    """Import a module by name.

    Args:
        module: Dotted name of the module.
        distribution: What to install for it.

    Raises:
        ImportError: The module, or something that it imports, is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"expected the module {module} to be importable, got: {error}; install it with `pip install {distribution}`"
        ) from error
