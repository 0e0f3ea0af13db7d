"""Restricts the code that Hydra's own part of a config may name.

Hydra instantiates loggers and callbacks as soon as a config is composed, and launcher and sweeper
soon after, long before a run could check anything. So every composed config is checked here before
Hydra gets it, wherever it came from: command line, ``conf/``, ``--config-dir``, a sweep's job.
"""

from collections.abc import Iterator
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.targets import ALLOW_VARIABLE, is_allowed_by_user
from kdbench.errors import ConfigError

_BASIC = "hydra._internal.core_plugins"
_SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
_SAMPLERS = ("TPE", "Random", "Grid", "CmaEs", "NSGAII", "NSGAIII", "MOTPE", "QMC", "BruteForce")
PLUGINS = {
    f"{_BASIC}.basic_launcher.BasicLauncher",
    f"{_BASIC}.basic_sweeper.BasicSweeper",
    f"{_SUBMITIT}.LocalLauncher",
    f"{_SUBMITIT}.SlurmLauncher",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    "hydra_plugins.kdbench_launcher.CohortLauncher",
    "kdbench.launch.local.LocalExecutor",
    "kdbench.launch.ray.RayExecutor",
    "kdbench.launch.slurm.SlurmExecutor",
    "hydra.experimental.callbacks.LogJobReturnCallback",
    *(f"optuna.samplers.{name}Sampler" for name in _SAMPLERS),
}
LOGGING = {
    "logging.FileHandler",
    "logging.Filter",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.handlers.TimedRotatingFileHandler",
    "colorlog.ColoredFormatter",
    "rich.logging.RichHandler",
    "kdbench.records.log.LogFile",
    "ext://sys.stderr",
    "ext://sys.stdout",
}
# Keys whose value names something to call, in any section ...
_CALLED = ("_target_", "custom_search_space")
# ... and in logging sections, where a prefix turns any value into an import.
_CALLED_IN_LOGGING = ("()", "class", "queue", "listener")
_PREFIXES = ("ext://", "cfg://")
_LOGGING_SECTIONS = ("job_logging", "hydra_logging")
# Hydra instantiates nothing from these; resolving a run's folder computes its key, which is slow.
_INERT = {
    *("run", "sweep", "job", "help", "hydra_help", "overrides", "runtime", "choices", "mode"),
    *("searchpath", "output_subdir", "verbose", "env"),
}
# Variables that decide which code a process loads; a config must not set them.
_ENVIRONMENT = ("KDBENCH_", "PYTHON", "LD_", "DYLD_", "PATH", "BASH_ENV", "ENV", "SHELL")


def guard_composition() -> None:
    """Checks every config that Hydra composes in this process from now on. Idempotent."""
    # Hydra has no hook between composing a config and instantiating objects from it, but every
    # config passes through this method: run, sweep, jobs of any launcher, flags such as --help.
    original = ConfigLoaderImpl.load_configuration
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def load_checked(*args: Any, **kwargs: Any) -> DictConfig:
        cfg = original(*args, **kwargs)
        require_allowed_nodes(cfg)
        return cfg

    ConfigLoaderImpl.load_configuration = load_checked  # type: ignore[method-assign]


def require_allowed_nodes(cfg: DictConfig) -> None:
    """Raises ConfigError if Hydra's part of a composed config names code that is not allowed."""
    problems = list(_find_problems(cfg))
    if problems:
        raise ConfigError("; ".join(problems))


def _find_problems(cfg: DictConfig) -> Iterator[str]:
    if "hydra" not in cfg:
        return
    sections = [name for name in map(str, cfg.hydra) if name not in _INERT]
    leaves = (leaf for name in sections for leaf in _leaves(cfg.hydra[name], f"hydra.{name}"))
    for path, key, value in leaves:
        section = path.split(".")[1]
        in_logging = section in _LOGGING_SECTIONS
        called = key in _CALLED or (in_logging and key in _CALLED_IN_LOGGING)
        imported = in_logging and isinstance(value, str) and value.startswith(_PREFIXES)
        if in_logging and key == ".":
            yield f"{path}: attributes of a logger cannot be set by a config; remove it"
        elif value is not None and (called or imported) and not _is_allowed(value, in_logging):
            yield (
                f"{path}={value!r} is not allowed: Hydra would call or import it. Allowed are its "
                f"own launchers, sweepers and log handlers, and what you name in the environment "
                f"variable {ALLOW_VARIABLE}"
            )
    for name in _environment(cfg):
        if str(name).upper().startswith(_ENVIRONMENT):
            yield (
                f"hydra.job.env_set.{name}: a config cannot set a variable that decides which "
                f"code runs; set it in the shell"
            )


def _is_allowed(value: Any, in_logging: bool) -> bool:
    if not isinstance(value, str):
        return False
    return value in (LOGGING if in_logging else PLUGINS) or is_allowed_by_user(value)


def _environment(cfg: DictConfig) -> list[Any]:
    found = OmegaConf.select(cfg, "hydra.job.env_set")
    return list(found) if isinstance(found, DictConfig) else []


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of all leaves below a node, with interpolations resolved if possible."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    raw: Any = OmegaConf.to_container(node, resolve=False)
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:  # a value that only the jobs of a sweep have
            value = raw[key]
        where = f"{path}.{key}"
        if isinstance(value, DictConfig | ListConfig) and key not in (*_CALLED, ".", "()"):
            yield from _leaves(value, where)
        else:
            yield where, str(key), value
