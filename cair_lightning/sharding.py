"""Weights that are sharded over the ranks, by DeepSpeed ZeRO-3 or FSDP2: read in, made whole, written out.

Under ZeRO-3 every rank holds a share of each weight, and DeepSpeed's module hooks fetch the rest when a module runs.
All of this uses DeepSpeed's own calls but for `whole`, which reaches into its hooks: hence the narrow range of versions
in setup.cfg. Under other strategies nothing is sharded, and everything here falls through to plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from cair_lightning.policies.lora import lora_layers, merged
from cair_lightning.policies.qwen import QwenVLPolicy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_sharded(trainer: Trainer | None) -> bool:
    """Whether the trainer's strategy shards the weights (ZeRO-3)."""
    return bool(trainer is not None and getattr(trainer.strategy, "zero_stage_3", False))


@contextmanager
def partitioned_loading(trainer: Trainer | None) -> Iterator[None]:
    """Let `from_pretrained` fill the shards, where the strategy shards the weights."""
    if trainer is None or not is_sharded(trainer):
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    strategy: Any = trainer.strategy
    strategy._init_config_if_needed()  # Lightning fills its DeepSpeed config only after the model is configured
    # transformers keeps a weak reference: the note goes with this frame, and other models are loaded whole again.
    note = HfDeepSpeedConfig(strategy.config)  # type: ignore[no-untyped-call]
    assert note is not None
    yield


def optimizer_is_offloaded(trainer: Trainer) -> bool:
    """Whether DeepSpeed keeps the optimizer's state in main memory or on disk."""
    config: Any = getattr(trainer.strategy, "config", None) or {}
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return bool(offload.get("device", "none") != "none")


@contextmanager
def _gathered(parameters: list[nn.Parameter], writer: int | None = None) -> Iterator[None]:
    """Whole weights of sharded parameters on every rank; what rank `writer` writes into them is kept."""
    shares: list[Any] = [p for p in parameters if hasattr(p, "ds_id")]
    if writer is None:  # whoever has gathered one already will give it back
        shares = [p for p in shares if p.ds_status.name != "AVAILABLE"]
    if not shares:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(shares, modifier_rank=writer):
        yield


def each_weight(module: nn.Module, trainer: Trainer | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and whole value of each entry of a module's `state_dict`, one at a time; every rank has to go through all.

    A value is the weight itself: copy what is to be kept. Adapters are merged into the weights that they belong to.

    Args:
        module: The module.
        trainer: Needed inside `training_step`, where DeepSpeed has asked for weights ahead.
    """
    _settle(trainer)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    layers = lora_layers(module)
    for name, value in module.state_dict(keep_vars=True).items():
        with _gathered([parameters[name]] if name in parameters else []), torch.no_grad():
            whole_value = value.full_tensor() if hasattr(value, "full_tensor") else value.detach()
            entry = merged(name, whole_value, layers) if layers else (name, whole_value)
            if entry is not None:
                yield entry


def full_weights(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The whole `state_dict` in main memory on the ranks that keep it, nothing on the others; all ranks call it."""
    weights: dict[str, Tensor] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    first: dict[nn.Parameter | None, str] = {}
    for name, value in each_weight(module):
        parameter = parameters.get(name)
        if keep and parameter is not None and parameter in first:  # tied weights stay one
            weights[name] = weights[first[parameter]]
        elif keep:
            weights[name], first[parameter] = value.cpu().clone(), name
    return weights


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """As `load_state_dict`, also where the module's weights are sharded; every rank has to call it.

    Raises:
        ValueError: If names or shapes differ.
    """
    parameters = dict(module.named_parameters())
    expected = {name: value_shape(value) for name, value in module.state_dict(keep_vars=True).items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if different := sorted(k for k in expected | found if expected.get(k) != found.get(k)):
        name = different[0]
        raise ValueError(
            f"{len(different)} weights differ from the model's, the first is {name!r}: expected "
            f"{expected.get(name, 'none')}, found {found.get(name, 'none')}."
        )
    if not any(hasattr(p, "ds_id") for p in parameters.values()):
        module.load_state_dict(weights)
        return
    for name, parameter in parameters.items():
        with _gathered([parameter], writer=0), torch.no_grad():
            if torch.distributed.get_rank() == 0:
                parameter.copy_(weights[name])


def value_shape(value: Tensor) -> tuple[int, ...]:
    """Shape of the whole of a weight."""
    return tuple(getattr(value, "ds_shape", value.shape))


def _settle(trainer: Trainer | None) -> None:
    """Wait for the weights that DeepSpeed has asked for ahead, and give them back: the others can then be gathered.

    Inside `training_step` the root module's hook has already asked for the first ones.
    """
    if trainer is not None and getattr(trainer.strategy, "zero_stage_3", False):
        _offload(trainer).get_param_coordinator()._clean_inflight_param_registry()


def _offload(trainer: Trainer) -> Any:  # noqa: ANN401
    """What fetches and releases weights under ZeRO-3."""
    engine: Any = trainer.strategy.model
    return getattr(engine.optimizer, "parameter_offload", engine.optimizer)


@contextmanager
def whole(policy: QwenVLPolicy, trainer: Trainer | None) -> Iterator[None]:
    """All of the policy's weights on every rank while it lasts: passes may then differ from rank to rank.

    Sampling token by token would fetch every weight for every token. Gathered once it takes as long as it does on one
    device, ranks need not wait for each other, and each needs the memory of a whole copy. The hooks are muted and not
    removed: the order of modules that DeepSpeed recorded, by which it fetches ahead, stays that of the passes in
    training alone.
    """
    if not policy.lockstep or trainer is None:
        yield
        return
    if not is_sharded(trainer):
        raise ValueError(
            "Under FSDP2 nothing is sampled: set data.val_split to null, and evaluate what ExportPolicy or `cair "
            "export` wrote with `cair test`."
        )
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    _settle(trainer)
    offload = _offload(trainer)
    with _gathered(list(policy.parameters())):
        # Looked up on the instance with each call. The hook after a module pops what the one before it has pushed.
        offload.pre_sub_module_forward_function = FWD_MODULE_STACK.append
        offload.post_sub_module_forward_function = _nothing
        policy.lockstep = False
        try:
            yield
        finally:
            policy.lockstep = True
            del offload.pre_sub_module_forward_function, offload.post_sub_module_forward_function


def _nothing(module: nn.Module) -> None:
    pass


def shard_by_fsdp(policy: QwenVLPolicy, mesh: DeviceMesh) -> None:
    """Shard a policy's weights by FSDP2, layer by layer; the pass that trains is then `policy(...)`.

    Raises:
        ValueError: If the strategy would use tensor parallelism, which is Lightning's default.
    """
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "ModelParallelStrategy cuts products over the devices of a node unless it is told otherwise: set its "
            "data_parallel_size to the number of devices, and tensor_parallel_size to 1."
        )
    data = mesh["data_parallel"]
    for block in (*policy.model.model.visual.blocks, *policy.model.model.language_model.layers):
        fully_shard(block, mesh=data)
    fully_shard(policy, mesh=data)
    policy.lockstep = True


def shard_reference(reference: QwenVLPolicy, trainer: Trainer) -> object:
    """Give a frozen policy, loaded sharded, DeepSpeed hooks of its own, apart from the engine that is trained.

    It is then in no checkpoint and in no optimizer. Returns the engine, which the caller keeps alive.
    """
    import deepspeed

    strategy: Any = trainer.strategy
    shared = ("zero_optimization", "zero_allow_untested_optimizer", "bf16", "fp16")
    config = {name: strategy.config[name] for name in shared if name in strategy.config}
    engine: object = deepspeed.initialize(
        config=config | {"train_micro_batch_size_per_gpu": 1},
        model=reference,
        model_parameters=[],
        dist_init_required=False,
    )[0]
    return engine
