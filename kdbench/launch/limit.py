"""The limit on the points of a sweep, a safeguard against a typo in a range."""

import math
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kdbench.config.compose import CONF
from kdbench.errors import ConfigError

KEY = "hydra.launcher.max_points"


def check_points(points: int, limit: int | None) -> None:
    """Raises ConfigError for more points than ``limit``; None allows any number."""
    if limit is not None and points > limit:
        raise ConfigError(
            f"the sweep has {points:,} points, more than {KEY}={limit}. If this is intended, set "
            f"{KEY}={points}, or null for no limit"
        )


def count_points(overrides: Sequence[str]) -> int:
    """Number of points of a sweep on the command line; a table may multiply it.

    The points are neither composed nor listed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return 1  # reported when the overrides are checked
    return math.prod(_count_values(override) for override in parsed)


def read_limit(overrides: Sequence[str]) -> int | None:
    """The limit from the command line, or else from the launcher's YAML file."""
    values = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{KEY}=")]
    if not values:
        return OmegaConf.load(CONF / "hydra" / "launcher" / "cohort.yaml").max_points
    return int(values[-1]) if values[-1].isdecimal() else None


def _count_values(override: Override) -> int:
    if not override.is_sweep_override():
        return 1
    value = override.value()
    if isinstance(value, RangeSweep):
        start, stop, step = (float(each or 0) for each in (value.start, value.stop, value.step))
        return max(0, math.ceil((stop - start) / step))
    if override.is_choice_sweep():
        return sum(1 for _ in override.sweep_iterator())
    return 1  # an interval or a glob: the number of its values is unknown here
