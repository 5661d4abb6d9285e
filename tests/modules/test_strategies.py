"""Which strategies each module runs by."""

import pytest
from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy


def sharded() -> Trainer:
    return Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)


def test_grpo_names_the_strategies_it_runs_by(grpo) -> None:
    module = grpo()
    module.trainer = sharded()
    message = r"GRPOModule runs by SingleDeviceStrategy, DDPStrategy \(DeepSpeed.* got ModelParallelStrategy: choose"
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


def test_sft_takes_fsdp2(sft) -> None:
    module = sft()
    module.trainer = sharded()
    module.setup("fit")
