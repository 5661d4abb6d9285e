"""What is refused before a token is drawn, without vLLM: other programs, versions and environments."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file

from cair_lightning.engines.base import EngineError
from cair_lightning.engines.client import LostError, VLLMServer
from cair_lightning.engines.process import OwnSettings, free_port, installed_vllm, refuse_version
from cair_lightning.engines.vllm import VLLMRollouts
from cair_lightning.engines.weights import write_weights


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, object]], str]]:
    """Runs an HTTP server that answers each path with text or JSON, and anything else with 404; returns its address."""
    running = []

    def start(answers: dict[str, object]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path in answers
                answer = answers.get(self.path, "nothing here")
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def check(url: str) -> None:
    async def ask() -> None:
        server = VLLMServer(url, patience=5.0)
        try:
            await server.check({"text_config": {"hidden_size": 96}})
        finally:
            await server.close()

    asyncio.run(ask())


def test_a_wrong_address_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=f"{url} does not answer .*expected a vLLM server there. Check"):
        check(url)
    with pytest.raises(ValueError, match=r"expected a base URL, as http://127.0.0.1:8000, got 'localhost:8000'"):
        VLLMRollouts(servers=["localhost:8000"])


def test_another_program_or_version_is_refused(serve) -> None:
    with pytest.raises(EngineError, match="/version: HTTP 404"):
        check(serve({}))
    with pytest.raises(EngineError, match=r"has vLLM 0.31.2; expected >=0.32,<0.33"):
        check(serve({"/version": {"version": "0.31.2"}}))


def test_a_server_that_was_started_otherwise_is_refused(serve) -> None:
    with pytest.raises(EngineError, match=r"started without what rollouts need .*start it with cair_vllm_server.py"):
        check(serve({"/version": {"version": "0.32.0"}}))


def test_another_model_is_refused(serve) -> None:
    described = [{"text_config": {"hidden_size": 64}, "served": {"max_model_len": 512}}]
    answers = {"/version": {"version": "0.32.0"}, "/collective_rpc": {"results": described}}
    with pytest.raises(EngineError, match=r"serves another model: text_config.hidden_size is 64, expected 96"):
        check(serve(answers))
    described[0]["text_config"]["hidden_size"] = 96
    check(serve(answers))


@pytest.mark.parametrize("load", [0, 1])
def test_a_server_that_draws_no_token_of_a_request_is_lost(serve, load) -> None:
    tokens = 'vllm:prompt_tokens_total{engine="0"} 7.0\nvllm:generation_tokens_total{engine="0"} 3.0\n'
    url = serve({"/load": {"server_load": load}, "/metrics": tokens})

    async def watch() -> None:
        server = VLLMServer(url, patience=1.5)
        try:
            await asyncio.wait_for(server.watch(), 5.0)
        finally:
            await server.close()

    with pytest.raises(LostError if load else TimeoutError, match="neither read nor drew a token for" if load else ""):
        asyncio.run(watch())


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.3.2", "1.0", "dev"])
def test_versions_outside_the_range_are_refused(version) -> None:
    with pytest.raises(EngineError, match=rf"has vLLM {version}; expected >=0.32,<0.33"):
        refuse_version(version, "it")


def test_an_environment_without_vllm_is_named(tmp_path) -> None:
    with pytest.raises(EngineError, match=r"has no vLLM. Install the extra, pip install 'cair-lightning\[vllm\]'"):
        installed_vllm(None)
    with pytest.raises(EngineError, match=r"cannot be run .*expected the interpreter of an environment with vLLM"):
        installed_vllm(str(tmp_path / "python"))


def test_a_run_without_vllm_says_so_and_leaves_nothing(grpo, trainer, curated, tmp_path) -> None:
    rollouts = VLLMRollouts(own=OwnSettings(python=sys.executable), weights_folder=str(tmp_path))
    from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule

    with pytest.raises(EngineError, match="has no vLLM"):
        trainer(max_steps=1).fit(
            grpo(rollout_engine=rollouts), EmoReasonRLDataModule(curated, batch_size=2, num_workers=0)
        )
    assert list(tmp_path.iterdir()) == []
    rollouts = VLLMRollouts(servers=[f"http://127.0.0.1:{free_port()}"], weights_folder=str(tmp_path / "missing"))
    with pytest.raises(EngineError, match=r"rollout_engine.weights_folder: .*missing is no folder"):
        trainer(max_steps=1).fit(
            grpo(rollout_engine=rollouts), EmoReasonRLDataModule(curated, batch_size=2, num_workers=0)
        )


@pytest.mark.parametrize(
    "settings", [{"own": OwnSettings(count=0)}, {"own": OwnSettings(count=2, devices=["0"])}, {"stall_seconds": 0.0},
                 {"importance_cap": 0.5}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="rollout_engine"):
        VLLMRollouts(**settings)


def test_weights_are_written_in_files_of_limited_size(tmp_path) -> None:
    weights = {f"w{n}": torch.randn(3, 4) for n in range(5)}
    paths = write_weights(weights.items(), tmp_path, "run-0", torch.bfloat16, file_bytes=48)
    assert [path.name for path in paths] == [f"run-0-{n}.safetensors" for n in range(3)]
    read = {name: value for path in paths for name, value in load_file(path).items()}
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name].bfloat16()) for name in weights)


def test_a_full_folder_is_named_after_all_weights_were_gone_through(tmp_path) -> None:
    seen = []

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for n in range(4):
            seen.append(n)
            yield f"w{n}", torch.ones(8)

    with pytest.raises(EngineError, match=r"cannot hold the weights .*weights_folder"):
        write_weights(weights(), tmp_path / "missing", "run-0", torch.float32, file_bytes=8)
    assert seen == [0, 1, 2, 3]
