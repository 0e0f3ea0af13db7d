"""``kdbench-train``: compose, check, train, record. The command line of the project."""

import errno
import logging
import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.compose import CONF, CONFIG_NAME, hydra_context, prepare
from kdbench.config.identity import run_key
from kdbench.config.overrides import check_overrides
from kdbench.errors import ConfigError, KdbenchError, Preempted, ResourceError, SweepError
from kdbench.results.record import FILE, find_finished

log = logging.getLogger("kdbench")

# With these, Hydra answers by itself and nothing is composed for a run.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"}
_QUESTIONS |= {"--shell-completion", "-sc"}
# With these, the config is not the one of conf/, and only the composed result can be checked.
_OTHER_CONFIG = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"}
_FLAGS = {"-m", "--multirun", "-r", "--run"}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EIO}


def train(cfg: DictConfig) -> float:
    """Trains the run of a composed config; returns its last-epoch test accuracy in percent."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    record = find_finished(folder, run_key(cfg))
    if record is not None:
        log.info("already done: %s", record.summary())
    else:
        # Imported here: a finished run is recognised without waiting for torch.
        from kdbench.config.check import check
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
    check_overrides(overrides, values=sweep)
    if not sweep:
        with hydra_context():
            cfg = compose(CONFIG_NAME, overrides, return_hydra_config=True)
        key = run_key(cfg)
        if find_finished(Path(cfg.hydra.run.dir), key) is None:
            check_overrides(overrides)


def _explain(error: Exception, sweep: bool) -> int:
    """Says what went wrong, in the log of the run too, and returns the exit code."""
    known = _known_error(error)
    if known is None:
        log.error("%s", "".join(traceback.format_exception(error)))
        _say("This is a bug in kdbench. Please report it with the command and the text above")
        return 1
    log.debug("%s", "".join(traceback.format_exception(error)))
    _say(f"error: {known}")
    return SweepError.exit_code if sweep and not isinstance(known, ConfigError) else known.exit_code


def _known_error(error: BaseException | None) -> KdbenchError | None:
    """The expected error behind an exception; Hydra and OmegaConf wrap what is raised in them."""
    while error is not None:
        if isinstance(error, KdbenchError):
            return error
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return ResourceError(
                f"out of memory: {str(error).splitlines()[0] if str(error) else error!r}. Choose a "
                f"smaller dataset.batch_size or network; the last checkpoint is kept"
            )
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return ResourceError(f"{error.filename}: {error.strerror}; see paths.outputs")
        behind = error.__cause__ or error.__context__
        if behind is None and isinstance(error, HydraException | OmegaConfBaseException):
            return ConfigError(str(error))
        error = behind
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
