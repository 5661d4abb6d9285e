from typing import Any

import pytest

from cair_lightning.metrics import LeakRate


def test_share_of_leaks_over_all_batches() -> None:
    metric = LeakRate()
    metric.update([True, False, False])
    metric.update([False])
    assert metric.compute().item() == 0.25


def test_what_is_no_bool_is_refused() -> None:
    leak: Any = None
    with pytest.raises(TypeError, match="expected a bool"):
        LeakRate().update([leak])
