"""Weights between two processes, as between a trainer and a worker of a server; with vLLM in test_vllm.py."""

import asyncio
import importlib.util
import multiprocessing
import socket
from pathlib import Path

import pytest
import torch

from cair_lightning.engines import EngineError
from cair_lightning.engines.client import VLLMServer
from cair_lightning.engines.fleet import Fleet, Member
from cair_lightning.engines.serving import cair_broadcast
from cair_lightning.engines.weights import Weights

CPU = torch.device("cpu")
ROUNDS = 2


def worker(file: str, port: int, answers) -> None:
    """What vLLM's worker does: it has the file alone, and not the package."""
    spec = importlib.util.spec_from_file_location("cair_broadcast", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    group = module.open_group("127.0.0.1", port, 1, 2, CPU, 60.0)
    for _ in range(ROUNDS):
        answers.put([(name, str(value.dtype), value.float().tolist()) for name, value in module.receive(group, CPU)])


@pytest.mark.slow
def test_every_weight_arrives_by_its_name_as_often_as_it_is_sent() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=worker, args=(cair_broadcast.__file__, port, answers), daemon=True)
    process.start()
    group = cair_broadcast.open_group("127.0.0.1", port, 0, 2, CPU, 60.0)
    weights = {"model.a": torch.tensor([[1.0, -2.0], [0.5, 3.0]]).T, "b": torch.tensor(7.0), "c": torch.zeros(0, 3)}
    for _ in range(ROUNDS):
        cair_broadcast.send(group, weights.items(), CPU, torch.bfloat16)
        assert answers.get(timeout=60) == [(k, "torch.bfloat16", v.tolist()) for k, v in weights.items()]
    process.join(timeout=60)
    assert process.exitcode == 0


def test_nothing_but_torch_is_imported_by_the_workers() -> None:
    text = Path(cair_broadcast.__file__).read_text("utf-8")
    assert "cair_lightning" not in text


def test_what_was_broadcast_cannot_be_given_again() -> None:
    member = Member(VLLMServer("http://127.0.0.1:9", 1.0))
    fleet = Fleet([member], 1.0)
    fleet._delivered = True
    with pytest.raises(EngineError, match=r"http://127.0.0.1:9 was lost, and its weights with it.*last checkpoint"):
        asyncio.run(fleet._load(member, Weights(label="run-step3-1", paths=None, temperature=1.0)))
