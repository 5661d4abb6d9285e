"""The command `cair`.

`fit`, `validate`, `test` and `predict` are LightningCLI's; the others are functions with typed arguments. What a
subcommand needs is imported when it runs, so that `cair --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cair_lightning

HELP = f"""usage: cair COMMAND [options]

CAIR Lightning {cair_lightning.__version__}: causal, adaptive, information-based RL for multimodal emotion reasoning.

  prepare    a downloaded data set, as its authors publish it, into manifests; `cair prepare --help` names them
  rationales export, import, check and draft the reasoning chains of stage 1
  fit        train: SFT (stage 1) or GRPO with the dual-path verifier (stage 2)
  validate   the validation loop of a checkpoint
  test       evaluate a checkpoint: predictions.jsonl, evaluation.json
  predict    predictions only
  curate     keep the most uncertain samples of a data set for stage 2
  export     a checkpoint of `fit`, one file or shards, as a Hugging Face folder
  plan       memory per GPU and time per step of a run, before it is paid for
  report     one HTML page from runs
  demo       the whole method on an embedded tiny model and a generated world

cair COMMAND --help lists its options; every option can stand in a YAML file (--config FILE)."""

LIGHTNING = ("fit", "validate", "test", "predict")
COMMANDS = ("prepare", "rationales", *LIGHTNING, "curate", "export", "plan", "report", "demo")


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: What follows `cair` on the command line; None reads it from there.
    """
    args = list(sys.argv[1:] if args is None else args)
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(HELP)
    elif command == "--version":
        print(cair_lightning.__version__)
    elif command in LIGHTNING:
        from cair_lightning.training import run

        run(args)
    elif command == "prepare":
        from cair_lightning.preparation.command import prepare_command

        prepare_command(args[1:])
    elif command == "rationales":
        from cair_lightning.preparation.rationale_command import rationales_command

        rationales_command(args[1:])
    elif command == "report":
        _report(args[1:])
    elif command == "export":
        _export(args[1:])
    elif command in ("curate", "plan", "demo"):
        _call(command, args[1:])
    else:
        sys.exit(f"cair: unknown command {command!r}; expected one of {', '.join(COMMANDS)}.")


def _call(command: str, args: list[str]) -> None:
    """Run a function as a command; its arguments are those of its signature."""
    from jsonargparse import auto_cli

    from cair_lightning.datamodules.base import TooManySkippedError

    function: Callable[..., object]
    if command == "curate":
        from cair_lightning.curation import curate as function
    elif command == "plan":
        from cair_lightning.planning import plan as function
    else:
        from cair_lightning.demo import demo as function
    try:
        print(auto_cli(function, args=args, as_positional=False, allow_abbrev=False))
    except (ValueError, OSError, TooManySkippedError) as error:
        sys.exit(f"cair {command}: {error}")


def _export(args: list[str]) -> None:
    """`cair export CKPT --out DIR`."""
    parser = argparse.ArgumentParser(
        "cair export", description="The policy of a checkpoint as a Hugging Face folder: safetensors and processor."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="of `cair fit`: a file or a folder of shards")
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument(
        "--dtype", choices=("as_trained", "float32", "bfloat16"), default="as_trained", help="default: every bit kept"
    )
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="read a folder of shards, which can run code: your own only"
    )
    given = parser.parse_args(args)
    from cair_lightning.export import export

    try:
        print(export(given.checkpoint, given.out, given.dtype, given.trust_checkpoint))
    except (ValueError, OSError) as error:
        sys.exit(f"cair export: {error}")


def _report(args: list[str]) -> None:
    """`cair report RUN... --out FILE`."""
    parser = argparse.ArgumentParser(
        "cair report", description="One self-contained HTML page: tables, figures and samples of the given runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; searched for results")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    given = parser.parse_args(args)
    from cair_lightning.report import build_report

    try:
        print(build_report(given.runs, given.out))
    except (ValueError, OSError) as error:
        sys.exit(f"cair report: {error}")
