"""What a run needs, against real models, checkpoints and the command line."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cair_lightning.cli import main
from cair_lightning.planning import GIB, SHAPES, Rates, Run, Shape, memory, seconds, shape_of
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.tree import Branch


def parameters(config: Qwen2_5_VLConfig) -> tuple[int, int]:
    """All parameters of a model, and those of its vision tower."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.model.visual.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name) -> None:
    shape = SHAPES[name]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.shared_heads, "tie_word_embeddings": shape.tied,
        },
        vision_config={
            "depth": shape.vision_layers, "hidden_size": shape.vision_hidden, "num_heads": 16,
            "intermediate_size": shape.vision_intermediate, "out_hidden_size": shape.hidden,
        },
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    assert (shape.parameters, shape.vision) == parameters(config)


def test_a_checkpoint_s_shape_is_read_from_its_folder(tiny) -> None:
    shape = shape_of(str(tiny))
    assert (shape.parameters, shape.vision) == parameters(AutoConfig.from_pretrained(tiny))
    with pytest.raises(ValueError, match=r"expected a model of 3b, 7b or a folder with a config.json, got '9b'"):
        shape_of("9b")


def test_zero_shards_by_its_stage() -> None:
    count = SHAPES["7b"].parameters / GIB
    sizes = {zero: memory(Run(shape=SHAPES["7b"], gpus=8, zero=zero)) for zero in (0, 1, 2, 3)}
    for zero, parts in {0: (1, 1, 1), 1: (1, 1, 8), 2: (1, 8, 8), 3: (8, 8, 8)}.items():
        expected = [2 * count / parts[0], 2 * count / parts[0], 2 * count / parts[1], 12 * count / parts[2]]
        names = ("weights", "reference", "gradients", "optimizer")
        assert [sizes[zero][name] for name in names] == pytest.approx(expected)
    assert sizes[3]["gathered weights"] == pytest.approx(2 * count)
    assert sizes[2]["gathered weights"] == 0


def test_what_is_left_out_takes_nothing() -> None:
    full, lean = (
        memory(Run(shape=SHAPES["7b"], kl=kl, freeze_vision=frozen, engine=engine))
        for kl, frozen, engine in ((True, False, False), (False, True, True))
    )
    assert lean["reference"] == 0
    assert lean["optimizer"] == pytest.approx(12 * SHAPES["7b"].text / 8 / GIB)
    assert lean["keys, values and states"] < full["keys, values and states"]
    host = memory(Run(shape=SHAPES["7b"], gpus=1, zero=2, offload=True))
    assert (host["optimizer"], host["gradients"]) == (0, 0)
    assert host["main memory, all ranks of a node"] == pytest.approx(16 * SHAPES["7b"].parameters / GIB)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_saves(dtype, monkeypatch) -> None:
    """Of a shape that the widths were not fitted on; what the head's rows take is counted apart."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import shapes

    sizes = {"hidden": 256, "layers": 6, "intermediate": 1024, "heads": 4, "shared_heads": 2, "vocabulary": 1024}
    vision = {"vision_hidden": 128, "vision_layers": 3, "vision_intermediate": 320}
    made = shapes.processor()
    model = shapes.build_model(shapes.Shape(**sizes, **vision, vision_heads=4), made, getattr(torch, dtype))
    policy = QwenVLPolicy(model, made)
    prompts, completion = shapes.prompts_of(policy, 512, 64, 1), [5] * 32
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # or its place would be given to another one
        return tensor

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        policy(prompts, [[Branch(ids=completion) for _ in range(4)]])
    run = Run(
        shape=Shape(**sizes, **vision, tied=True), gpus=1, zero=0, prompt=576, visual=512, group=4, tokens=32, batch=1,
        parts=1, precision=dtype, checkpointing=False,
    )  # fmt: skip
    head = 4 * 4 * 32 * 1024
    assert (sum(saved.values()) - head) / GIB == pytest.approx(memory(run)["activations"], rel=0.1)


def test_time_follows_from_operations_and_bytes() -> None:
    shape = SHAPES["7b"]
    run = Run(shape=shape, gpus=1, zero=0, prompt=1000, visual=0, group=2, tokens=100, batch=1, parts=1, kl=False)
    times = seconds(run, Rates(tflops=100, memory_gbs=1000))
    body, width = shape.layers * shape.layer, shape.layers * shape.hidden
    prompt, completions = 2 * width * 1000**2, 2 * width * 200 * (2 * 1000 + 100)  # products of attention
    assert times["prefill"] == pytest.approx((2 * body * 1000 + prompt) / 1e14)
    assert times["sampling"] == pytest.approx(100 * 2 * (body + shape.head) / 1e12)
    assert times["reference"] == 0
    products = 2 * body * 1200 + 2 * shape.head * 200 + prompt + completions
    assert times["update"] == pytest.approx(4 * products / 1e14)


def test_the_command_prints_a_table(capsys, tiny) -> None:
    main(["plan", "--model", "7b", "--gpus", "8", "--zero", "3", "--prompt", "4096", "--group", "8"])
    printed = capsys.readouterr().out
    assert "8.29 billion parameters, 8.29 trained" in printed
    assert "fits 80 GiB with a tenth to spare" in printed
    main(["plan", "--model", "7b", "--gpus", "1", "--zero", "0"])
    assert "does not fit 80 GiB" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="cair plan: expected parts to divide batch, got 2 and 3"):
        main(["plan", "--parts", "2", "--batch", "3"])
