"""Two processes under ZeRO-3, one of which is killed, and both of which are preempted."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("zero_ranks.py")
ROOT = Path(__file__).parents[2]
LOST = "Connection (reset|closed) by peer|terminated with code"
"""What is left to read of a rank that was killed: from gloo, or from Lightning, which looks after what it started."""

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


@contextmanager
def job(log: Path, *arguments: Path) -> Iterator[subprocess.Popen]:
    """GRPO without an end; whatever is left of it at the end is killed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(SCRIPT), "endless", *map(str, arguments)]
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            for left in psutil.process_iter(["cmdline"]):
                if str(arguments[2]) in (left.info["cmdline"] or []):
                    left.kill()


def wait_for(condition: Callable[[], object], process: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def checkpoints(folder: Path, pattern: str = "step=*.ckpt") -> list[Path]:
    """Complete checkpoints, the newest last: DeepSpeed writes `latest` into a folder when all else is there."""
    found = [path for path in (folder / "checkpoints").glob(pattern) if (path / "latest").exists()]
    return sorted(found, key=lambda path: int(path.stem.rpartition("=")[2]))


def test_a_lost_rank_ends_the_job_and_the_last_checkpoint_goes_on(taught, curated, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    log = tmp_path / "first.log"
    with job(log, taught, curated, first) as running:
        wait_for(lambda: len(checkpoints(first)) >= 2, running, log)
        (other,) = psutil.Process(running.pid).children()
        other.send_signal(signal.SIGKILL)
        assert running.wait(timeout=60) > 0
    assert re.search(LOST, log.read_text())

    last, log = checkpoints(first)[-1], tmp_path / "second.log"
    with job(log, taught, curated, second, last) as running:
        wait_for(lambda: checkpoints(second), running, log)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 143, log.read_text()[-3000:]
    (saved,) = checkpoints(second, "preempted-step=*.ckpt")
    steps = [int(path.stem.rpartition("=")[2]) for path in (last, checkpoints(second)[0], saved)]
    assert steps[1] == steps[0] + 1
    assert steps[2] >= steps[1]
    assert f"--ckpt_path {saved}" in log.read_text()


def test_the_first_rank_leaves_no_other_behind(taught, curated, tmp_path) -> None:
    log = tmp_path / "log"
    with job(log, taught, curated, tmp_path / "run") as running:
        wait_for(lambda: checkpoints(tmp_path / "run"), running, log)
        (other,) = psutil.Process(running.pid).children()
        running.send_signal(signal.SIGKILL)
        assert psutil.wait_procs([other], timeout=60)[1] == []
    assert re.search(LOST, log.read_text())
