"""`cair plan`: what a run needs per GPU and how long its steps take, by arithmetic, before it is paid for.

Memory is counted from shapes; time from the operations and bytes of each phase at given rates. docs/scaling.md compares
both with what was measured, and says which rates are assumptions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Precision = Literal["bfloat16", "mixed", "float32"]
GIB = 2**30
SCORED_ROWS = 2048
"""Rows whose logits exist at the same time; see `cair_lightning.policies.scoring`."""
BUCKET = 200_000_000
"""Elements of DeepSpeed's buckets of gradients, by Lightning's default."""
WIDTHS = {"bfloat16": (11.0, 4.7), "mixed": (11.0, 4.7), "float32": (9.0, 4.7)}
"""Hidden and intermediate widths that a layer keeps of each token for the backward pass, fitted on what autograd saved
of two shapes; tests/test_planning.py holds them to another one."""
LIVE = 1_000_000_000
"""Most parameters that ZeRO-3 holds gathered in forward and backward, by DeepSpeed's default."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Qwen2.5-VL."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    shared_heads: int
    vocabulary: int
    tied: bool
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_intermediate: int = 3420
    patch_values: int = 3 * 2 * 14 * 14

    @property
    def key_width(self) -> int:
        """Width of the keys of a layer, all heads together."""
        return self.shared_heads * self.hidden // self.heads

    @property
    def layer(self) -> int:
        """Parameters of a layer of the language model."""
        h, k = self.hidden, self.key_width
        return 2 * h * h + h + 2 * (h * k + k) + 3 * h * self.intermediate + 2 * h

    @property
    def head(self) -> int:
        """Parameters of the head, or of the embeddings."""
        return self.vocabulary * self.hidden

    @property
    def text(self) -> int:
        """Parameters of the language model, embeddings and head included."""
        return self.layers * self.layer + self.hidden + self.head * (1 if self.tied else 2)

    @property
    def vision(self) -> int:
        """Parameters of the vision tower."""
        v, i = self.vision_hidden, self.vision_intermediate
        block = 4 * v * v + 4 * v + 3 * v * i + 2 * i + v + 2 * v
        merger = v + (4 * v) ** 2 + 4 * v + 4 * v * self.hidden + self.hidden
        return self.patch_values * v + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.text + self.vision


SHAPES = {
    "3b": Shape(
        hidden=2048, layers=36, intermediate=11008, heads=16, shared_heads=2, vocabulary=151936, tied=True
    ),
    "7b": Shape(
        hidden=3584, layers=28, intermediate=18944, heads=28, shared_heads=4, vocabulary=152064, tied=False
    ),
}  # fmt: skip


def shape_of(model: str) -> Shape:
    """The shape of `3b`, `7b`, or of the checkpoint in a folder.

    Raises:
        ValueError: If it is neither.
    """
    if model in SHAPES:
        return SHAPES[model]
    file = Path(model) / "config.json"
    if not file.exists():
        raise ValueError(f"expected a model of {', '.join(SHAPES)} or a folder with a config.json, got {model!r}.")
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    return Shape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        intermediate=text["intermediate_size"],
        heads=text["num_attention_heads"],
        shared_heads=text["num_key_value_heads"],
        vocabulary=text["vocab_size"],
        tied=config["tie_word_embeddings"],
        vision_hidden=vision["hidden_size"],
        vision_layers=vision["depth"],
        vision_intermediate=vision["intermediate_size"],
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """What decides memory and time of a step of stage 2."""

    shape: Shape
    gpus: int = 8
    zero: Literal[0, 1, 2, 3] = 3
    prompt: int = 4096
    """Tokens of a prompt."""
    visual: int = 3500
    """Those of them that come from the clip."""
    group: int = 8
    tokens: int = 200
    """Tokens of a completion."""
    batch: int = 3
    """Prompts per GPU and step."""
    parts: int = 3
    """Parts that the update of a step is cut into (`accumulate_grad_batches`)."""
    precision: Precision = "bfloat16"
    """bfloat16 weights with float32 masters (DeepSpeed), float32 weights under autocast (mixed), or all float32."""
    offload: bool = False
    """The optimiser's state lies in main memory."""
    checkpointing: bool = True
    kl: bool = True
    freeze_vision: bool = False
    engine: bool = False
    """Another engine samples: keys and values of completions are not kept here."""

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return self.shape.text if self.freeze_vision else self.shape.parameters

    @property
    def row(self) -> int:
        """Tokens of the row that a part of the update runs: each prompt once, and its completions."""
        return max(1, self.batch // self.parts) * (self.prompt + self.group * self.tokens)

    def share(self, stage: int) -> int:
        """Ranks over which ZeRO cuts what it shards from a stage on."""
        return self.gpus if self.zero >= stage else 1


def memory(run: Run) -> dict[str, float]:
    """GiB on each GPU by what takes it; `rollout` and `update` are the two phases' totals, `host` is main memory."""
    weights = 2 if run.precision == "bfloat16" else 4
    static = {
        "weights": weights * run.shape.parameters / run.share(3),
        "reference": weights * run.shape.parameters / run.share(3) if run.kl else 0.0,
        "gradients": (weights * run.trained / run.share(2)),
        "optimizer": (12 if run.precision == "bfloat16" else 8) * run.trained / run.share(1),
    }
    host = 0.0
    if run.offload:
        host = (static.pop("optimizer") + 4 * run.trained / run.share(1)) * (1 if run.zero else 0)
        static["optimizer"] = 0.0
        static["gradients"] = 0.0 if run.zero >= 2 else static["gradients"]
    rollout = _rollout_memory(run, weights)
    update = _update_memory(run, weights)
    kept = sum(static.values())
    sizes = static | rollout | update
    result = {name: size / GIB for name, size in sizes.items()}
    result["total while sampling"] = (kept + sum(rollout.values())) / GIB
    result["total while updating"] = (kept + sum(update.values())) / GIB
    result["main memory, all ranks of a node"] = host * min(8, run.gpus) / GIB
    return result


def _rollout_memory(run: Run, weights: int) -> dict[str, float]:
    """Bytes that only the rollout takes."""
    shape, bytes_ = run.shape, 4 if run.precision == "float32" else 2
    per_token = bytes_ * (2 * shape.layers * shape.key_width + shape.hidden)
    prompts, completions = run.batch * run.prompt, run.batch * run.group * run.tokens
    held = prompts + (0 if run.engine else 2 * completions)  # twice from when the first completion has ended
    return {
        "gathered weights": weights * shape.parameters if run.zero == 3 else 0.0,
        "keys, values and states": per_token * held,
    }


def _update_memory(run: Run, weights: int) -> dict[str, float]:
    """Bytes that only the update takes."""
    shape, bytes_ = run.shape, 4 if run.precision == "float32" else 2
    visual = 4 * max(1, run.batch // run.parts) * run.visual  # patches, before four become one token
    hidden, intermediate = WIDTHS[run.precision]
    inside = hidden * shape.hidden + intermediate * shape.intermediate
    inside_vision = hidden * shape.vision_hidden + intermediate * shape.vision_intermediate
    if run.checkpointing:
        layers = run.row * (shape.layers * shape.hidden + inside)
        tower = visual * (shape.vision_layers * shape.vision_hidden + inside_vision)
    else:
        layers, tower = run.row * shape.layers * inside, visual * shape.vision_layers * inside_vision
    scored = min(SCORED_ROWS, max(1, run.batch // run.parts) * run.group * run.tokens)
    live = min(LIVE, shape.parameters) if run.zero == 3 else 0
    return {
        "activations": bytes_ * (layers + (0 if run.freeze_vision else tower)),
        "gradients inside a layer": bytes_ * inside * run.row,
        "weights cast by autocast": 2.0 * shape.parameters if run.precision == "mixed" else 0.0,
        "logits": 3.0 * 4 * scored * shape.vocabulary,
        "gathered layers": weights * live,
        "buckets": weights * 2.0 * min(BUCKET, run.trained) if run.zero >= 1 else 0.0,
    }


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a GPU does in a second. The defaults are an H100's data sheet times shares that are assumptions."""

    tflops: float = 989 * 0.4
    """Of large products, forward and backward."""
    memory_gbs: float = 3350 * 0.6
    """Of reading weights while tokens are sampled."""
    network_gbs: float = 300
    """Of gathering weights over the ranks."""


def seconds(run: Run, rates: Rates) -> dict[str, float]:
    """Seconds of each phase of a step, from what it computes and moves."""
    shape, prompts = run.shape, run.batch * run.prompt
    completions = run.batch * run.group * run.tokens
    body = shape.layers * shape.layer
    attention = 2.0 * shape.layers * shape.hidden  # two products, of which the causal half is computed
    once = 2.0 * (body * prompts + shape.vision * 4 * run.visual * run.batch) + attention * prompts * run.prompt
    scored = 2.0 * (body + shape.head) * completions + attention * completions * (2 * run.prompt + run.tokens)
    rate = rates.tflops * 1e12
    bytes_ = 2.0 if run.precision == "bfloat16" else 4.0
    weights = bytes_ * (body + shape.head)
    gather = bytes_ * shape.parameters / (rates.network_gbs * 1e9) if run.zero == 3 else 0.0
    backward = 4.0 if run.checkpointing else 3.0  # forward, twice as much backward, and forward anew
    at_once = 2.0 * (body + shape.head) * run.batch * run.group
    sampling = run.tokens * max(weights / (rates.memory_gbs * 1e9), at_once / rate)
    return {
        "prefill": once / rate + gather,
        "sampling": sampling,
        "reference": ((once + scored) / rate + gather) if run.kl else 0.0,
        "update": backward * (once + scored) / rate + run.parts * 3 * gather,
    }


def plan(
    model: str = "7b",
    gpus: int = 8,
    zero: Literal[0, 1, 2, 3] = 3,
    prompt: int = 4096,
    visual: int = 3500,
    group: int = 8,
    tokens: int = 200,
    batch: int = 3,
    parts: int = 3,
    precision: Precision = "bfloat16",
    offload: bool = False,
    checkpointing: bool = True,
    kl: bool = True,
    freeze_vision: bool = False,
    engine: bool = False,
    gpu_gib: float = 80.0,
    tflops: float = Rates.tflops,
    memory_gbs: float = Rates.memory_gbs,
    network_gbs: float = Rates.network_gbs,
) -> str:
    """Memory per GPU and seconds per step of stage 2, as a table.

    Args:
        model: `3b`, `7b`, or the folder of a checkpoint.
        gpus: Number of GPUs.
        zero: Stage of ZeRO; 0 is none.
        prompt: Tokens of a prompt.
        visual: Those of them that come from the clip.
        group: G, completions per prompt.
        tokens: Tokens of a completion.
        batch: Prompts per GPU and step.
        parts: Parts that the update of a step is cut into.
        precision: bfloat16 weights with float32 masters, float32 weights under autocast (mixed), or all float32.
        offload: Whether the optimiser's state lies in main memory.
        checkpointing: Whether layers are recomputed in the backward pass.
        kl: Whether there is a reference policy.
        freeze_vision: Whether the vision tower is left as it is.
        engine: Whether another engine samples.
        gpu_gib: Memory of a GPU.
        tflops: Its rate in large products, 10^12 operations a second.
        memory_gbs: Its rate of reading its memory, 10^9 bytes a second.
        network_gbs: Its rate of gathering weights from the others.

    Raises:
        ValueError: If there is no such model, or `parts` does not divide `batch`.
    """
    if batch % parts:
        raise ValueError(f"expected parts to divide batch, got {parts} and {batch}.")
    run = Run(
        shape=shape_of(model), gpus=gpus, zero=zero, prompt=prompt, visual=visual, group=group, tokens=tokens,
        batch=batch, parts=parts, precision=precision, offload=offload, checkpointing=checkpointing, kl=kl,
        freeze_vision=freeze_vision, engine=engine,
    )  # fmt: skip
    rates = Rates(tflops=tflops, memory_gbs=memory_gbs, network_gbs=network_gbs)
    return _table(run, memory(run), seconds(run, rates), gpu_gib)


def _table(run: Run, sizes: dict[str, float], times: dict[str, float], gpu_gib: float) -> str:
    peak = max(sizes["total while sampling"], sizes["total while updating"])
    rest = sum(times.values()) - times["sampling"]
    lines = [f"{run.shape.parameters / 1e9:.2f} billion parameters, {run.trained / 1e9:.2f} trained", "", "GiB per GPU"]
    lines += [f"  {name:<34}{size:8.2f}" for name, size in sizes.items()]
    lines += ["", "seconds per step, at the rates given"]
    lines += [f"  {name:<34}{time:8.2f}" for name, time in times.items()]
    lines += ["", f"{'fits' if peak <= 0.9 * gpu_gib else 'does not fit'} {gpu_gib:g} GiB with a tenth to spare."]
    replicas = times["sampling"] / rest
    lines.append(
        f"Sampling takes {times['sampling'] / (rest + times['sampling']):.0%} of a step. As many servers as "
        f"{replicas:.2f} x the trainer's GPUs would sample in the time that everything else takes."
    )
    return "\n".join(lines)
