"""Which strategies each module runs by."""

import pytest
from lightning import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, FSDPStrategy])
def test_grpo_names_the_strategies_it_runs_by(grpo, strategy) -> None:
    module = grpo()
    module.trainer = Trainer(accelerator="cpu", devices=1, strategy=strategy(), logger=False)
    with pytest.raises(ValueError, match=r"GRPOModule runs by SingleDeviceStrategy, DDPStrategy \("):
        module.setup("fit")


def test_sft_takes_fsdp2_and_not_fsdp1(sft) -> None:
    module = sft()
    module.trainer = Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)
    module.setup("fit")
    module.trainer = Trainer(accelerator="cpu", devices=1, strategy=FSDPStrategy(), logger=False)
    with pytest.raises(ValueError, match=r"SFTModule runs by .*ModelParallelStrategy .* got FSDPStrategy"):
        module.setup("fit")
