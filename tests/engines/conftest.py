"""One vLLM server for all tests, of an environment that CAIR_VLLM_PYTHON names: `make test-vllm` makes it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cair_lightning.engines.process import OwnSettings
from cair_lightning.engines.vllm import VLLMRollouts


class KeptRollouts(VLLMRollouts):
    """Starts its server once, however many runs use it, and leaves it running between them."""

    def start(self, trainer, policy, sampling) -> None:
        if self.fleet is None:
            super().start(trainer, policy, sampling)
        self._trainer, self._temperature = trainer, sampling.temperature

    def stop(self) -> None:
        pass

    def end(self) -> None:
        super().stop()


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("CAIR_VLLM_PYTHON")
    if not python:
        pytest.skip("CAIR_VLLM_PYTHON names no interpreter with vLLM; run make test-vllm")
    return python


@pytest.fixture(scope="session")
def engine(vllm_python, tmp_path_factory) -> Iterator[KeptRollouts]:
    own = OwnSettings(
        python=vllm_python,
        arguments=["--max-model-len=512", "--max-num-seqs=16", "--enforce-eager"],
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"},
    )
    rollouts = KeptRollouts(own=own, dtype="float32", weights_folder=str(tmp_path_factory.mktemp("weights")))
    try:
        yield rollouts
    finally:
        rollouts.end()
