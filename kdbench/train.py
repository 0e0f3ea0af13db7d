"""``kdbench-train``: compose, check, train, record. The command line of the project."""

import logging
import os
import re
import sys
import traceback
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kdbench.config.compose import CONF, CONFIG_NAME, hydra_context, prepare
from kdbench.config.identity import run_key
from kdbench.config.overrides import check_overrides
from kdbench.engine.runlog import log_traceback
from kdbench.errors import ConfigError, Preempted, SweepError, describe_error, known_error
from kdbench.results.record import FILE, find_finished

log = logging.getLogger("kdbench")

# With these, Hydra answers by itself and nothing is composed for a run.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"}
_QUESTIONS |= {"--shell-completion", "-sc"}
# With these, the config is not the one of conf/, and only the composed result can be checked.
_OTHER_CONFIG = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"}
_FLAGS = {"-m", "--multirun", "-r", "--run"}
# `interval(1,8)`, which only some sweepers know, is checked by its two ends.
_INTERVAL = re.compile(r"\binterval\((?:start=)?([^,()]+),\s*(?:end=)?([^,()]+)\)")


def train(cfg: DictConfig) -> float:
    """Trains the run of a composed config; returns its last-epoch test accuracy in percent."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return _train(cfg, folder)
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        # A job of one of Hydra's own launchers: only the first failure of a sweep gets out, and
        # one that comes from another process has lost its cause. So it is told here.
        reason = describe_error(error)
        log.error("failed: %s", reason)
        log_traceback(folder, error)
        raise SweepError(reason) from None


def _train(cfg: DictConfig, folder: Path) -> float:
    record = find_finished(folder, run_key(cfg))
    if record is not None:
        log.info("already done: %s", record.summary())
    else:
        from kdbench.config.check import check  # as above
        from kdbench.engine.run import train_job

        check(cfg)
        record = train_job(cfg, folder)
        log.info("%s", record.summary())
    log.info("record: %s", folder / FILE)
    assert record.top1_last is not None
    return record.top1_last


def main() -> None:
    """Entry point of ``kdbench-train``; ends with one of the exit codes of ``kdbench.errors``."""
    # Hydra's parser wants its flags before the overrides; people write them anywhere.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in _FLAGS)
    sys.argv[1:] = arguments
    sweep = bool({"-m", "--multirun"} & set(arguments))
    prepare()
    # Hydra would print a traceback and exit with 1; with this set it lets the error through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if sweep and _QUESTIONS & set(arguments):
            raise ConfigError("-m starts a sweep, and questions such as --cfg are about one run")
        if not (_QUESTIONS | _OTHER_CONFIG) & {a.split("=")[0] for a in arguments}:
            _look_over([a for a in arguments if a not in _FLAGS], sweep)
        hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")(train)()
    except Preempted as stop:
        _say(str(stop))
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # the reader of our output has left, as in `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        _say("interrupted; the same command continues from the last checkpoint")
        sys.exit(130)
    except Exception as error:
        sys.exit(_explain(error, sweep))


def _look_over(overrides: list[str], sweep: bool) -> None:
    """Refuses a command line with mistakes before Hydra makes a folder for it."""
    if sweep:  # values are checked run by run: one that is wrong does not cost the others
        check_overrides([_INTERVAL.sub(r"choice(\1,\2)", o) for o in overrides], values=False)
        return
    check_overrides(overrides, values=False)
    with hydra_context():
        cfg = compose(CONFIG_NAME, overrides, return_hydra_config=True)
    if find_finished(Path(cfg.hydra.run.dir), run_key(cfg)) is None:
        # Imported here: a finished run is recognised without waiting for torch.
        from kdbench.config.check import check

        check(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))


def _explain(error: Exception, sweep: bool) -> int:
    """Says what went wrong, in the log of the run too, and returns the exit code."""
    known = known_error(error)
    if known is None:
        log.error("%s", "".join(traceback.format_exception(error)))
        _say("This is a bug in kdbench. Please report it with the command and the text above")
        return 1
    log.debug("%s", "".join(traceback.format_exception(error)))
    _say(f"error: {known}")
    return SweepError.exit_code if sweep and not isinstance(known, ConfigError) else known.exit_code


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
