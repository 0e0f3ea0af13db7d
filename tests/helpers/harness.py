"""Runs tiny trainings in processes of their own, kills them, and compares what they leave."""

import multiprocessing
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.helpers.waiting import hold_at

HERE = Path(__file__).parent
TINY = [
    "debug=smoke",
    "dataset.train_size=40",
    "dataset.test_size=20",
    "dataset.image_size=8",
    "dataset.batch_size=8",
    "run.epochs=3",
    "teacher.epochs=1",
    "run.threads=1",
]
STATEFUL = [
    *TINY,
    "student._target_=tests.helpers.stateful.net",
    "student.arch=net",
    "temperature._target_=tests.helpers.stateful.Moody",
]
HINT = [
    *TINY,
    "+objective.terms.hint._target_=kdbench.objective.objective.Term",
    "+objective.terms.hint.loss._target_=tests.helpers.stateful.Hint",
    "+objective.terms.hint.loss.momentum=0.5",
    "+objective.terms.hint.weight=0.1",
]


def context():
    """Processes that start with everything imported, so that each costs milliseconds."""
    found = multiprocessing.get_context("forkserver")
    modules = ["kdbench.engine.run", "kdbench.data.tensors", "kdbench.config.overrides"]
    found.set_forkserver_preload([*modules, __name__])
    return found


def work(outputs, overrides, environment):
    """Trains one run below ``outputs`` as the command line would; the process's exit code tells."""
    import torch

    from kdbench.config.compose import compose_config
    from kdbench.engine.run import train_job
    from kdbench.errors import KdbenchError, Preempted

    os.environ.update(
        environment, KDBENCH_ALLOW_TARGETS="tests.helpers.stateful,tests.helpers.stateful.net"
    )
    sys.stderr = open(Path(outputs) / "stderr.txt", "a")  # noqa: SIM115
    torch.set_num_threads(1)
    hold_at(environment.get("HOLD_AT", ""))
    cfg = compose_config([*overrides, f"paths.outputs={outputs}"])
    try:
        train_job(cfg, Path(outputs) / "run")
    except (KdbenchError, Preempted) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def start(outputs, overrides, **environment):
    Path(outputs).mkdir(exist_ok=True)
    arguments = (str(outputs), overrides, environment)
    process = context().Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def run(outputs, overrides, **environment):
    """Exit code of a run; negative signal number where it was killed."""
    process = start(outputs, overrides, **environment)
    process.join()
    return process.exitcode


def result(outputs):
    """What must not depend on when a run was killed: record, metrics.csv and weights."""
    from safetensors.torch import load_file

    from kdbench.digest import file_digest, state_digest
    from kdbench.records.record import read_record
    from tests.helpers.records import CIRCUMSTANCES

    folder = Path(outputs) / "run"
    record = {k: v for k, v in asdict(read_record(folder)).items() if k not in CIRCUMSTANCES}
    return {
        "record": record,
        "metrics": (folder / "metrics.csv").read_bytes(),
        "weights": state_digest(load_file(folder / "student.safetensors")),
        "file": file_digest(folder / "student.safetensors"),
    }
