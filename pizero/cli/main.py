"""The command line: one verb per file, errors as one sentence."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads stall whatever shares the cores

import tyro

from pizero.cli.bench import bench_control
from pizero.cli.collect import collect
from pizero.cli.convert import convert
from pizero.cli.demo import demo
from pizero.cli.doctor import doctor
from pizero.cli.evaluate import evaluate
from pizero.cli.explain import explain
from pizero.cli.follow import follow
from pizero.cli.import_recordings import import_recordings
from pizero.cli.report import report
from pizero.cli.serve import serve
from pizero.cli.stats import stats, stats_diff
from pizero.cli.tokenizer import tokenizer
from pizero.cli.train import train
from pizero.training.loop import InterruptedRunError

VERBS = {
    "demo": demo,
    "collect": collect,
    "import": import_recordings,
    "stats": stats,
    "stats-diff": stats_diff,
    "train": train,
    "evaluate": evaluate,
    "follow": follow,
    "report": report,
    "serve": serve,
    "bench-control": bench_control,
    "doctor": doctor,
    "explain": explain,
    "convert": convert,
    "tokenizer": tokenizer,
}

DESCRIPTION = """π0 robot policies: demonstrate, train, evaluate in closed loop, look at the result.

Start with `pizero demo`: it runs five of the verbs below in a row, from nothing to a policy that drives a
simulated arm, in about a quarter of an hour on two CPU cores. Each verb says what it wrote and what to run
next.

Exit status: 0 done; 1 a failure of the program, or the answer of `explain` (unhealthy), `stats diff`
(different) and `doctor --strict` (warnings); 2 what one sentence names: wrong input, a full disk, a training
run that diverged or lost a process, errors that `doctor` found; 130 interrupted: the same command goes on.
torchrun itself ends with 1 if one of its processes ends with anything but 0."""


def main() -> None:
    """Run the verb that the command line names; PIZERO_TRACEBACK=1 shows where an error came from."""
    arguments = sys.argv[1:]
    if arguments[:2] in (["stats", "diff"], ["bench", "control"]):
        arguments = ["-".join(arguments[:2]), *arguments[2:]]
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="pizero", description=DESCRIPTION, args=arguments, config=CONFIG
        )
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        if os.environ.get("PIZERO_TRACEBACK"):
            raise
        sys.stderr.write(f"pizero: {error}\n")
        sys.exit(2)
    except (InterruptedRunError, KeyboardInterrupt) as interruption:
        sys.stderr.write(f"pizero: {str(interruption) or 'interrupted'}; run the same command to go on\n")
        sys.exit(130)


CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)

if __name__ == "__main__":
    main()
