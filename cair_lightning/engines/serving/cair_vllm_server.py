"""vLLM's OpenAI-compatible server with what rollouts need of it.

    PYTHON_WITH_VLLM cair_lightning/engines/serving/cair_vllm_server.py --model CHECKPOINT --port 8000 [vLLM's options]

Its routes for weights have no password, and whoever reaches them can make it load files: it listens on the loopback
interface, and `--host` may name another one of a private network only.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLLOW = "CAIR_VLLM_FOLLOWS_STDIN"
"""Set to 1, the server ends when its standard input does, that is, however the trainer that started it ended."""

ALWAYS = {
    "--host": ["127.0.0.1"],
    # A checkpoint's own top-k or penalty would be sampled with, but is in no log-probability of the trainer.
    "--generation-config": ["vllm"],
    "--worker-extension-cls": ["cair_vllm_worker.CairWorker"],
    # The route from tokens and processed clips to tokens.
    "--enable-scale-out": [],
    # Clips come normalised; vLLM would normalise them once more, on the device.
    "--no-mm-device-do-normalize": [],
    # They come processed: there is nothing to keep.
    "--mm-processor-cache-gb": ["0"],
    "--enable-server-load-tracking": [],
    # The trainer looks at these every second.
    "--disable-access-log-for-endpoints": ["/health,/load,/metrics,/weight_info"],
}
ON_CPU = {
    # Blocks are shared whole; the default of 128 tokens shares nothing of a short prompt.
    "--block-size": ["32"],
}


def on_cpu() -> bool:
    """Whether the installed vLLM is the one for CPUs, whose distribution has a name of its own."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return True
    return False


def options(given: Sequence[str], defaults: dict[str, list[str]]) -> list[str]:
    """Command line: defaults, where nothing else is given, and what is given.

    >>> options(["--port", "1", "--host=a"], {"--host": ["b"], "--x": []})
    ['--x', '--port', '1', '--host=a']
    """
    named = {argument.partition("=")[0] for argument in given}
    missing = [[name, *values] for name, values in defaults.items() if name not in named]
    return [*(part for option in missing for part in option), *given]


def follow_stdin() -> None:
    """End the server once nobody holds the other end of its standard input."""

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(given: Sequence[str]) -> None:
    """Serve until SIGTERM.

    Args:
        given: Options of vLLM's server.
    """
    if os.environ.get(FOLLOW) == "1":
        follow_stdin()
    os.environ.setdefault("VLLM_SERVER_DEV_MODE", "1")  # the routes for weights and caches
    folder = str(Path(__file__).parent)  # vLLM's workers import the extension by its name
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    defaults = dict(ALWAYS)
    if on_cpu():
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
        defaults |= ON_CPU
    sys.argv = [sys.argv[0], *options(given, defaults)]
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


if __name__ == "__main__":
    main(sys.argv[1:])
