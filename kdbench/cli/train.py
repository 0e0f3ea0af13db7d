"""``kdbench-train``: composes, checks, trains and records runs."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kdbench import __version__
from kdbench.cli.command import run_command
from kdbench.config.check import find_plain_problems, raise_all
from kdbench.config.compose import (
    CONF,
    CONFIG_NAME,
    VERSION_BASE,
    ConfigSource,
    Loader,
    hydra_context,
    prepare,
    restore_config,
    use_source,
)
from kdbench.config.identity import resolve_config, run_key
from kdbench.config.nodes import guard_composition
from kdbench.config.overrides import check_overrides, compose_sound, with_searchpath
from kdbench.config.own import find_own_code, replace_strategy
from kdbench.config.reading import check_files_that_hydra_reads
from kdbench.config.stage import source_of
from kdbench.config.syntax import explain, quote_recipes
from kdbench.config.tuned import look_in
from kdbench.errors import (
    ConfigError,
    ExitCode,
    LockedError,
    SweepError,
    describe_error,
    known_error,
)
from kdbench.files import make_folder, refuse_links
from kdbench.launch.limit import check_points, count_points, read_limit
from kdbench.records.log import log_failure
from kdbench.records.record import FILE, RunRecord, find_finished
from kdbench.words import say

log = logging.getLogger("kdbench")

# With these flags Hydra prints something itself, and no run is composed.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"}
_QUESTIONS |= {"--shell-completion", "-sc"}
# `interval(1,8)`, which only some sweepers support, is checked at its two ends.
_INTERVAL = re.compile(r"\binterval\((?:start=)?([^,()]+),\s*(?:end=)?([^,()]+)\)")

# Not in `main`: Hydra's launchers import this module in the processes that they start.
guard_composition()


def train(cfg: DictConfig, checked: bool = False) -> float:
    """Trains the run of a composed config; returns its last-epoch test accuracy in percent.

    Args:
        cfg: without Hydra's node.
        checked: whether the config is known to be valid, and the run to be unfinished.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    find_own_code()  # also in the processes of Hydra's own launchers
    try:
        with use_source(source_of(cast(DictConfig, HydraConfig.instance().cfg))):
            record = _train(cfg, folder, checked)
        log.info("record: %s", folder / FILE)
        assert record.top1_last is not None
        return record.top1_last
    except Exception as error:
        if not isinstance(known_error(error), LockedError):  # else the log is not ours
            log_failure(folder, error)
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        # A job of one of Hydra's own launchers, which report only the first failure of a sweep,
        # without its cause if it comes from another process. So it is logged here.
        reason = describe_error(error)
        log.error("failed: %s", reason)
        raise SweepError(reason) from None


def _train(cfg: DictConfig, folder: Path, checked: bool) -> RunRecord:
    if not checked and (record := _find_finished_or_check(cfg, folder)) is not None:
        log.info("already done: %s", record.summary())
        return record
    from kdbench.engine.run import train_job  # slow: imports torch

    # Resolved once, here, and not wherever a value is needed.
    record = train_job(restore_config(resolve_config(cfg)), folder)
    log.info("%s", record.summary())
    return record


def _find_finished_or_check(cfg: DictConfig, folder: Path) -> RunRecord | None:
    """The record of a finished run; None if the run has to be trained.

    Raises:
        ConfigError: lists every problem of the config.
    """
    raise_all(find_plain_problems(cfg))  # clearer than the error from a key that cannot be computed
    record = find_finished(folder, run_key(cfg))
    if record is None:
        from kdbench.config.check import check  # slow: imports torch

        check(cfg)
    return record


def main() -> None:
    """Entry point of ``kdbench-train``; exits with one of ``errors.ExitCode``."""
    run_command(
        _main,
        interrupted="interrupted; the same command continues from the last checkpoint",
        is_sweep=lambda: _is_sweep(sys.argv[1:]),
    )


def _main() -> int:
    sys.argv[1:] = arguments = quote_recipes(replace_strategy(_options_first(sys.argv[1:])))
    if "--version" in arguments:
        print(f"kdbench {__version__}")
        return ExitCode.DONE
    prepare()
    check_files_that_hydra_reads()
    JobReturn.return_value = _RETURN_VALUE  # type: ignore[assignment]
    # Hydra would print a traceback and exit with 1; with this set it re-raises the error.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _refuse_strays(arguments)
    if _is_sweep(arguments) and _QUESTIONS & set(arguments):
        raise ConfigError("-m starts a sweep, but flags such as --cfg are for a single run")
    source, overrides = _split(arguments)
    look_in(source.folders())
    if not _QUESTIONS & {a.split("=")[0] for a in arguments}:
        if _is_sweep(arguments):
            _check_sweep(source, overrides)
        elif _run_once(source, overrides):
            return ExitCode.DONE
    hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base=VERSION_BASE)(train)()
    return ExitCode.DONE


def _is_sweep(arguments: Sequence[str]) -> bool:
    return bool({"-m", "--multirun"} & set(arguments))


def _options_first(arguments: Sequence[str]) -> list[str]:
    """Moves options before the overrides, as Hydra's parser requires."""
    known = get_args_parser()._option_string_actions
    options: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        (options if argument.startswith("-") else overrides).append(argument)
        if rest and argument in known:
            action = known[argument]
            if action.nargs is None or (action.nargs == "?" and rest[0] in (action.choices or ())):
                options.append(rest.pop(0))
    return [*options, *overrides]


def _refuse_strays(arguments: Sequence[str]) -> None:
    """Rejects unknown options with a hint; Hydra would print its usage."""
    options = get_args_parser()._option_string_actions
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and not any(option.startswith(name) for option in options):
            raise_all([explain(argument, lambda option: [])])


def _result(job: JobReturn) -> Any:
    """Like Hydra's own, but without printing a line before it raises the error."""
    assert job.status != JobStatus.UNKNOWN
    if job.status == JobStatus.COMPLETED:
        return job._return_value
    raise job._return_value


def _keep(job: JobReturn, value: Any) -> None:
    job._return_value = value


_RETURN_VALUE = property(_result, _keep)


def _split(arguments: list[str]) -> tuple[ConfigSource, list[str]]:
    """The source of the configs, as Hydra will parse the command line, and the overrides."""
    known, _ = get_args_parser().parse_known_intermixed_args(arguments)
    if known.experimental_rerun is not None:
        raise ConfigError(
            "--experimental-rerun loads a pickle, which can run code; use kdbench-rerun RUN"
        )
    source = ConfigSource(
        conf=Path(known.config_path or CONF).absolute(),
        name=known.config_name or CONFIG_NAME,
        folder=Path(known.config_dir) if known.config_dir else None,
    )
    return with_searchpath(source, known.overrides), known.overrides


def _check_sweep(source: ConfigSource, overrides: list[str]) -> None:
    """Rejects an invalid command line before Hydra creates a folder for it.

    Values are checked run by run, so that an invalid one does not stop the other runs.
    """
    check_points(count_points(overrides), read_limit(overrides))
    single = [_INTERVAL.sub(r"choice(\1,\2)", override) for override in overrides]
    check_overrides(single, values=False, source=source)


def _run_once(source: ConfigSource, overrides: list[str]) -> bool:
    """Composes, checks and trains a single run; reports a finished one.

    Hydra's own entry point would compose the same config twice more.

    Returns:
        Whether it was a single run; False if the config enables a sweep (``hydra.mode``).
    """
    with hydra_context(source) as loader:
        cfg = compose_sound(loader, overrides, with_hydra=True)
        if cfg.hydra.mode == RunMode.MULTIRUN:
            return False
        folder = Path(cfg.hydra.run.dir)
        refuse_links(folder)
        plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        record = _find_finished_or_check(plain, folder)
        if record is not None:  # write nothing: the folder may be read-only
            say(f"already done: {record.summary()}\nrecord: {folder / FILE}")
            return True
        make_folder(folder)  # Hydra would end with a traceback
        loader.hand_over(overrides, cfg)
        _let_hydra_run(loader, overrides)
    return True


def _let_hydra_run(loader: Loader, overrides: list[str]) -> None:
    """Does what ``hydra.main`` does for a single run: folder, log, callbacks, task."""
    hydra = Hydra("train", loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        hydra.run(loader.primary, partial(train, checked=True), overrides)
    finally:
        GlobalHydra.instance().clear()


if __name__ == "__main__":
    main()
