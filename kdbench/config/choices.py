"""The groups of ``conf/``, their options, and the choices of methods and defaults."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

_PACKAGED = Path(__file__).parents[1] / "conf"  # in an installed wheel
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"

WIDTH = 80
# Groups whose options are published methods: each is listed with a description.
DESCRIBED = ("temperature", "method")
# Up to a period or semicolon that is not inside parentheses or a number.
_SENTENCE = re.compile(r"(?:\([^)]*\)|[^;.(]|[;.](?!\s|$))*")
# Not for users to choose: Hydra's own groups, and settings that are picked automatically.
HIDDEN = ("hydra", "published", "recipe", "tuned")


def list_groups(conf: Path) -> str:
    """All groups, with a line for each temperature strategy and method."""
    groups = sorted(path for path in conf.iterdir() if path.is_dir() and path.name not in HIDDEN)
    plain = [_list_options(group) for group in groups if group.name not in DESCRIBED]
    described = [_describe_options(conf / name) for name in DESCRIBED]
    return "\n".join([*plain, "", "\n\n".join(described)])


def read_option(group: str, name: str) -> dict[str, Any]:
    """The content of ``conf/GROUP/NAME.yaml``, interpolations unresolved."""
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    return cast(dict, OmegaConf.to_container(node, resolve=False))


def options_of(group: Path) -> list[str]:
    """Names of a group's options, those in subfolders (``imagenet/resnet18``) last."""
    files = [path.relative_to(group).with_suffix("") for path in group.rglob("*.yaml")]
    return [str(path) for path in sorted(files, key=lambda path: (len(path.parts), path))]


def describe(file: Path) -> str:
    """The description of an option: the first sentence of the leading comment of its file."""
    text = " ".join(_first_comment(file))
    found = _SENTENCE.match(text.replace("et al.", "et al"))
    return found[0].strip() if found else ""


@lru_cache
def own_choice(conf: Path, method: str, group: str) -> str | None:
    """The option of a group that ``method=NAME`` chooses; None if there is no such method.

    Args:
        conf: config folder.
        method: name of its file.
        group: such as "temperature".
    """
    path = conf / "method" / f"{method}.yaml"
    if not path.is_file():
        return None
    for part in (path, conf / "train.yaml"):  # the default, unless the method overrides it
        for entry in _defaults(part):
            for name in (f"override /{group}", group):
                if isinstance(entry, Mapping) and name in entry:
                    return str(entry[name])
    return None


@lru_cache
def _defaults(path: Path) -> list[Any]:
    """The defaults list of a config."""
    found = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return list(found.get("defaults", []))


def _list_options(group: Path) -> str:
    text = f"{group.name}: {', '.join(options_of(group))}"
    return "\n".join(wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False))


def _describe_options(group: Path) -> str:
    names = options_of(group)
    width = max(map(len, names)) + 2
    lines = [f"{group.name}:"]
    for name in names:
        about = shorten(describe(group / f"{name}.yaml"), WIDTH - width - 2, placeholder=" ...")
        lines.append(f"  {name:{width}}{about}".rstrip())
    return "\n".join(lines)


def _first_comment(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith("# @package"):
            yield line.lstrip("# ").strip()
