"""Whether a sweep of so many points is meant: a slip in a range is cheap to make."""

import math
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kdbench.config.compose import CONF
from kdbench.errors import ConfigError

KEY = "hydra.launcher.max_points"


def require_meant(points: int, most: int | None) -> None:
    """Refuses more points than ``most``.

    Raises:
        ConfigError: with the number, and the word that is needed.
    """
    if most is not None and points > most:
        raise ConfigError(
            f"the sweep has {points:,} points, and {KEY}={most}. If they are meant, write "
            f"{KEY}={points}, or null for any number"
        )


def count_points(overrides: Sequence[str]) -> int:
    """Points of a sweep as they stand on the command line; a table may multiply them.

    Nothing is composed, and no list of the points is made.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return 1  # which is told where overrides are checked
    return math.prod(_count_values(override) for override in parsed)


def read_limit(overrides: Sequence[str]) -> int | None:
    """What the command line says of the limit, else the launcher's file."""
    said = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{KEY}=")]
    if not said:
        return OmegaConf.load(CONF / "hydra" / "launcher" / "cohort.yaml").max_points
    return int(said[-1]) if said[-1].isdecimal() else None


def _count_values(override: Override) -> int:
    if not override.is_sweep_override():
        return 1
    value = override.value()
    if isinstance(value, RangeSweep):
        start, stop, step = (float(each or 0) for each in (value.start, value.stop, value.step))
        return max(0, math.ceil((stop - start) / step))
    if override.is_choice_sweep():
        return sum(1 for _ in override.sweep_iterator())
    return 1  # an interval or a pattern: their number is not known here
