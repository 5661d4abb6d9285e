"""How long is an optimiser step of GRPO, ours against TRL's?   python benchmarks/grpo_step.py

One optimiser step of `GRPOModule` under Lightning and of TRL's GRPOTrainer: the same weights, as many visual tokens (a
clip for ours, its frames as images for TRL, which takes no video), G = 8, eta 0.04, completions forced to one length,
without and with the causal mediation reward. In TRL a reward cannot see the policy, so that it is written as its users
have to: the policy captured in a closure, a batch of full rows per completion (its candidates). Each figure comes from
a process of its own, whose peak memory is its own. Of ours the first step is left out; TRL's takes minutes, beside
which what a first step sets up is nothing. Writes benchmarks/results/grpo_step.json. About an hour on 2 cores; --quick
measures the two shapes that the targets are set for, in half of that.
"""

from __future__ import annotations

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import functools
import json
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from shapes import (
    EMOTIONS,
    GRIDS,
    GROUP,
    RESULTS,
    SHAPES,
    build_model,
    dictated,
    fill,
    in_a_process,
    peak_gib,
    processor,
    prompts_of,
    spread,
    write_result,
)  # fmt: skip

from cair_lightning.policies.tree import Branch
from cair_lightning.world.tiny import save

ETA = 0.04
TEXT = 64
CASES = [(192, 1, 64), (192, 1, 200), (512, 2, 64), (960, 1, 64), (960, 1, 200), (1984, 1, 64), (1984, 1, 200)]
"""Visual tokens, prompts per step, completion tokens."""
TARGETS = [(512, 2, 64), (960, 1, 64)]


class Phases:
    """Seconds of named phases of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)

    def around(self, holder: object, method: str, phase: str | Callable[[], str]) -> None:
        """Time every call of a method."""
        inner = getattr(holder, method)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = inner(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.now[phase if isinstance(phase, str) else phase()] += time.perf_counter() - started
            return result

        setattr(holder, method, timed)

    def end_step(self, seconds: float) -> None:
        """What was timed belongs to a step that took so long."""
        self.steps.append({**self.now, "total": seconds})
        self.now.clear()


def ours(folder: Path, options: argparse.Namespace) -> Phases:
    """Steps of `GRPOModule` under Lightning's Trainer."""
    from lightning import Callback, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy

    from cair_lightning import rollout
    from cair_lightning.datamodules.loading import whole_window
    from cair_lightning.modules.grpo import GRPOModule
    from cair_lightning.modules.settings import EvaluationSettings, PolicySettings
    from cair_lightning.policies.sampling import SamplingSettings
    from cair_lightning.rollout import RewardSettings

    phases = Phases()

    class Clock(Callback):
        """What is no phase of the rollout: forward and backward passes of the update, and the optimiser."""

        def lap(self) -> float:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            before, self.mark = self.mark, time.perf_counter()
            return self.mark - before

        def on_train_batch_start(self, trainer: object, module: Any, batch: Any, batch_idx: int) -> None:
            self.mark = time.perf_counter()
            if batch.part == 0:
                self.started = self.mark

        def on_before_backward(self, trainer: object, module: Any, loss: object) -> None:
            rollout = module.rollout.seconds if "prefill" not in phases.now else {}
            phases.now |= rollout
            phases.now["forward"] += self.lap() - sum(rollout.values())

        def on_after_backward(self, trainer: object, module: object) -> None:
            phases.now["backward"] += self.lap()

        def on_train_batch_end(
            self,
            trainer: object,
            module: Any,
            outputs: object,
            batch: Any,
            batch_idx: int,
        ) -> None:
            phases.now["optimizer"] += self.lap()
            if batch.part + 1 == batch.parts:
                assert all(a is not None for a in module.rollout.verdict.answers)
                phases.end_step(self.mark - self.started)

    module = GRPOModule(
        str(folder),
        eta=ETA,
        loading=PolicySettings(
            dtype=options.dtype,
            tree_attention=options.attention,
            gradient_checkpointing=options.checkpointing,
            gather_to_sample=not options.sharded,
        ),
        sampling=SamplingSettings(group_size=GROUP, max_new_tokens=options.tokens),
        rewards=RewardSettings(mediation=options.cmr),
        evaluation=EvaluationSettings(keyword_model=None),
    )
    policy = prompter(module, options)
    prompts = prompts_of(policy, options.visual, TEXT, options.prompts)
    windows = [w for _ in range(options.steps + options.warm) for w in whole_window(prompts, options.prompts)]
    trainer = Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1, max_epochs=1, logger=False,
        precision="bf16-true" if options.dtype == "bfloat16" else "32-true", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=options.prompts,
        callbacks=[Clock()],
        strategy=DeepSpeedStrategy(stage=options.zero, offload_optimizer=options.offload) if options.zero else "auto",
    )  # fmt: skip
    if options.contestant == "rows":
        rollout.completion_logps = plain_rows  # the module looks it up under its own name as well
        vars(sys.modules[GRPOModule.__module__])["completion_logps"] = plain_rows
    with dictated(policy, options.tokens):
        trainer.fit(module, torch.utils.data.DataLoader(windows, batch_size=None))  # type: ignore[arg-type]
    return phases


def prompter(module: Any, options: argparse.Namespace) -> Any:
    """The policy that makes the prompts: a small one with its tokenizer, where DeepSpeed is to configure the module."""
    from cair_lightning.policies.qwen import QwenVLPolicy

    if options.zero:
        made = processor()
        return QwenVLPolicy(build_model(SHAPES["37m"], made), made).to("cuda")
    module.configure_model()
    return module.policy


def plain_rows(
    policy: Any,
    prompts: Any,
    completions: Any,
    rows: Sequence[int],
    temperature: float,
) -> torch.Tensor:
    """In the place of `rollout.completion_logps`: a full row per completion, nothing shared but the batch."""
    group = len(completions.ids_NT) // len(prompts)
    repeated = prompts.select([b for b in rows for _ in range(group)])
    trees = [[Branch(ids=completions.ids(b * group + g))] for b in rows for g in range(group)]
    layout, logps_M = policy.logps(repeated, trees, temperature=temperature)
    logps_NT: torch.Tensor = layout.per_token(logps_M, range(layout.n_branches), completions.ids_NT.shape[1])
    return logps_NT


def trl(folder: Path, options: argparse.Namespace) -> Phases:
    """Steps of TRL's GRPOTrainer."""
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    phases = Phases()
    made = AutoProcessor.from_pretrained(folder)
    frames, height, width = GRIDS[options.visual]
    pictures = [Image.effect_noise((width * 14, height * 14), 60).convert("RGB") for _ in range(frames)]
    text = made.tokenizer.decode(fill(made, TEXT - 17 - 2 * frames))  # a picture has two control tokens
    rows = [
        {"prompt": [{"role": "user", "content": f"{n} {text}"}], "images": pictures} for n in range(options.prompts)
    ]
    reward = (
        mediation_reward(lambda: trainer.model, made)
        if options.cmr
        else lambda completions, **_: [1.0] * len(completions)
    )
    half = options.dtype == "bfloat16"
    config = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=options.prompts * GROUP, num_generations=GROUP,
        max_completion_length=options.tokens, beta=ETA, max_steps=options.steps + options.warm, bf16=half,
        learning_rate=1e-6, gradient_checkpointing=options.checkpointing, use_cpu=not torch.cuda.is_available(),
        report_to=[],
        generation_kwargs={"min_new_tokens": options.tokens}, save_strategy="no", shuffle_dataset=False,
        model_init_kwargs={"dtype": options.dtype, "attn_implementation": "sdpa"}, disable_tqdm=True,
    )  # fmt: skip

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            phases.end_step(time.perf_counter() - self.started)

    trainer = GRPOTrainer(
        model=str(folder), reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=made, callbacks=[Clock()],
    )  # fmt: skip
    phases.around(trainer, "_generate_single_turn", "generate")
    phases.around(trainer, "_calculate_rewards", "verify")
    in_loss = False

    def forward_or_reference() -> str:
        return "forward" if in_loss else "reference"

    phases.around(trainer, "_get_per_token_logps_and_entropies", forward_or_reference)
    compute = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        nonlocal in_loss
        in_loss = True
        result = compute(*args, **kwargs)
        in_loss = False
        return result

    trainer.compute_loss = compute_loss
    phases.around(trainer.accelerator, "backward", "backward")
    trainer.train()
    return phases


def mediation_reward(policy: Callable[[], Any], made: Any) -> Callable[..., list[float]]:
    """log P(y* | X, do(z)) / P(y* | X) as a reward function of TRL: a full row per candidate, candidates as a batch."""
    answers = [made.tokenizer(f"{y}</answer>", add_special_tokens=False).input_ids for y in EMOTIONS]
    fork, truth = fill(made, 4), EMOTIONS.index("sad")

    @torch.no_grad()
    def belief(prompt: list[dict[str, Any]], pictures: Any, context: list[int]) -> torch.Tensor:
        model = policy()
        text = made.apply_chat_template(prompt, add_generation_prompt=True)
        front = made(text=[text], images=pictures, return_tensors="pt")
        rows = [front.input_ids[0].tolist() + context + answer for answer in answers]
        longest = max(map(len, rows))
        pad = made.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        types = torch.nn.functional.pad(front.mm_token_type_ids, (0, longest - front.input_ids.shape[1]))
        inputs = {
            "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types.expand(len(rows), -1),
            "pixel_values": front.pixel_values.repeat(len(rows), 1),
            "image_grid_thw": front.image_grid_thw.repeat(len(rows), 1),
        }  # fmt: skip
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        most = max(map(len, answers))
        logps = (
            model(**inputs, logits_to_keep=most + 1 + longest - min(map(len, rows)), use_cache=False)
            .logits.float()
            .log_softmax(-1)
        )
        scores = []
        for row, (whole, answer) in enumerate(zip(rows, answers, strict=True)):
            first = len(whole) - len(answer) - 1 - (longest - logps.shape[1])
            scores.append(logps[row, range(first, first + len(answer)), answer].sum())
        return torch.stack(scores).log_softmax(0)

    def reward(
        prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], images: list[Any], **_: object
    ) -> list[float]:
        model = policy()
        model.eval()
        seen: dict[str, torch.Tensor] = {}
        rewards = []
        for prompt, ids, pictures in zip(prompts, completion_ids, images, strict=True):
            if (key := json.dumps(prompt, default=str)) not in seen:
                seen[key] = belief(prompt, pictures, fork)
            rewards.append(float(belief(prompt, pictures, ids[:-8])[truth] - seen[key][truth]))
        model.train()
        return rewards

    return reward


def measure(name: str, row: dict[str, Any], options: argparse.Namespace, steps: int, warm: int) -> dict[str, Any]:
    """One contestant in a process of its own."""
    flags = ["--cmr"] if row["cmr"] else []
    flags += ["--checkpointing"] if options.checkpointing else []
    return in_a_process(
        "grpo_step.py", "--contestant", name, "--visual", str(row["prompt"] - TEXT), "--prompts", str(row["prompts"]),
        "--tokens", str(row["tokens"]), "--steps", str(steps), "--warm", str(warm), "--model", options.model,
        "--dtype", options.dtype, "--attention", options.attention, *flags,
    )  # fmt: skip


def compare(options: argparse.Namespace) -> None:
    """All cases, ours and TRL's in turn."""
    results = []
    for case in TARGETS if options.quick else [*TARGETS, *(c for c in CASES if c not in TARGETS)]:
        for cmr in (True, False):
            row: dict[str, Any] = {"prompt": case[0] + TEXT, "prompts": case[1], "tokens": case[2], "cmr": cmr}
            row["ours"] = measure("ours", row, options, steps=3 if case in TARGETS else 2, warm=1)
            row["trl"] = measure("trl", row, options, steps=2 if case in TARGETS else 1, warm=0)
            row["trl_over_ours"] = row["trl"]["seconds"]["total"]["median"] / row["ours"]["seconds"]["total"]["median"]
            row["memory_ours_over_trl"] = row["ours"]["peak_gib"] / row["trl"]["peak_gib"]
            results.append(row)
            print({k: v for k, v in row.items() if not isinstance(v, dict)}, flush=True)
            settings = {"model": options.model, "dtype": options.dtype, "group": GROUP, "eta": ETA, "text": TEXT}
            write_result(
                options.result, "How long is an optimiser step of GRPO, ours against TRL's?", settings, results
            )


def contest(options: argparse.Namespace) -> None:
    """Measure one contestant and print it."""
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        made = processor()
        save(Path(scratch), made, build_model(SHAPES[options.model], made, getattr(torch, options.dtype)))
        before = peak_gib()
        phases = {"ours": ours, "rows": ours, "trl": trl}[options.contestant](Path(scratch), options)
    steps = phases.steps[options.warm :]
    names = sorted({name for step in steps for name in step})
    seconds = {name: spread([step.get(name, 0.0) for step in steps]) for name in names}
    print(json.dumps({"seconds": seconds, "peak_gib": peak_gib(), "gib_before": before}))


def main() -> None:
    """Compare, or (in a process of its own) measure one contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="37m", choices=SHAPES)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULTS / "grpo_step.json")
    parser.add_argument("--contestant", choices=["ours", "rows", "trl"])
    parser.add_argument("--visual", type=int)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--cmr", action="store_true")
    parser.add_argument("--zero", type=int, default=0, choices=[0, 2, 3], help="ours under DeepSpeed, on CUDA")
    parser.add_argument("--sharded", action="store_true", help="sample without gathering the weights")
    parser.add_argument("--offload", action="store_true", help="the optimiser's state in main memory")
    options = parser.parse_args()
    if options.contestant:
        contest(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
