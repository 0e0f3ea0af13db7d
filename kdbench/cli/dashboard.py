"""``kdbench-dashboard``: a W&B workspace and report that compare temperature strategies."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from omegaconf import OmegaConf

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.config.compose import CONF
from kdbench.errors import ConfigError, ExitCode
from kdbench.files import write_atomic
from kdbench.tracker.panels import DashboardView
from kdbench.tracker.redact import describe_problem
from kdbench.tracker.sync import find_pending, sync
from kdbench.tracker.wandb import WandbTracker
from kdbench.words import plural

GROUP_BY = ("pair", "method", "strategy")
FILE = Path("kdbench-dashboard.json")
_TIMEOUT = 20  # seconds to wait for the server

_EXAMPLES = """examples
  kdbench-dashboard --where table=temperature_survey
  kdbench-dashboard --project kd --group-by temperature --text outputs/report/table.md
  kdbench-dashboard --sync outputs        upload what was trained offline
"""


def dashboard(options: argparse.Namespace) -> int:
    """Uploads runs, or builds the dashboard; returns the exit code."""
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(_TIMEOUT))
    return _build(options) if options.sync is None else _upload(options.sync)


def main() -> None:
    """Entry point of ``kdbench-dashboard``."""
    options = _parse(sys.argv[1:])
    log_to_terminal()
    run_command(lambda: dashboard(options))


def _upload(outputs: Path) -> int:
    if not outputs.is_dir():
        raise ConfigError(f"--sync {outputs} must be a folder with runs, such as outputs")
    attempts, busy = find_pending(outputs)
    for attempt in busy:
        print(f"skipped, the run is still training: {attempt}")
    if not attempts:
        print(f"nothing to upload below {outputs}")
        return 0
    problem = WandbTracker.login_problem()
    if problem:
        print(f"nothing was uploaded, W&B is not available: {problem}")
        return ExitCode.NOT_IN_WANDB
    left = sync(attempts, outputs)
    for attempt in left:
        print(f"not uploaded: {attempt}")
    print(f"uploaded {len(attempts) - len(left)} of {plural(len(attempts), 'offline run')}")
    return ExitCode.NOT_IN_WANDB if left else 0


def _build(options: argparse.Namespace) -> int:
    view, views = _choose_view(options), _import_views()
    problem = WandbTracker.login_problem()
    if not problem:
        try:
            for name, url in _save(view, views):
                print(f"{name} saved: {url}")
        except Exception as error:  # W&B's errors have no common base class
            problem = describe_problem(error)
    if problem or options.out is not None:
        out = _choose_file(options.out)
        write_atomic(out, views.to_json(view).encode())
        print(f"workspace and report written as JSON: {out}")
    if problem:
        print(f"not saved in W&B: {problem}")
        return ExitCode.NOT_IN_WANDB
    return 0


def _choose_file(out: Path | None) -> Path:
    """The path of the JSON file: ``out`` itself if it has a suffix, else a file in that folder."""
    if out is None:
        return FILE
    return out / FILE if out.is_dir() or not out.suffix else out


def _save(view: DashboardView, views: ModuleType) -> Iterator[tuple[str, str]]:
    """Saves the report, which creates the project if necessary, then the workspace."""
    import wandb

    found = replace(view, entity=view.entity or wandb.Api().default_entity or "")
    yield "report", views.build_report(found, connected=True).save().url
    yield "workspace", views.build_workspace(found).save().url


def _import_views() -> ModuleType:
    try:
        from kdbench.tracker import views
    except ImportError as error:
        raise ConfigError(
            f"kdbench-dashboard needs wandb-workspaces, which cannot be imported: {error}; "
            f"pip install 'kdbench[dashboard]'"
        ) from error
    return views


def _choose_view(options: argparse.Namespace) -> DashboardView:
    """The view that the options define, with defaults from ``conf/tracker/wandb.yaml``."""
    tracker = OmegaConf.load(CONF / "tracker" / "wandb.yaml")
    wrong = [word for word in options.where if "=" not in word or "." in word.split("=")[0]]
    if wrong:
        raise ConfigError(
            f"--where {' '.join(wrong)} must be COLUMN=VALUE with a flat column, such as "
            f"table=demo or temperature_tau=4.0"
        )
    where = OmegaConf.to_container(OmegaConf.from_dotlist(options.where))
    assert isinstance(where, dict)
    return DashboardView(
        project=options.project or tracker.project,
        entity=options.entity or tracker.entity or "",
        group_by=options.group_by,
        where={str(column): value for column, value in where.items()},
        text=_read_text(options.text) if options.text else "",
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--text {path} cannot be read: {error}; give a Markdown file in UTF-8, such as the "
            f"table.md of kdbench-report"
        ) from error


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kdbench-dashboard",
        description="Save a W&B workspace and report that compare temperature strategies; without "
        "a login, write them as JSON. Each call saves new ones. Exit code 0: everything is in W&B; "
        f"{ExitCode.NOT_IN_WANDB}: something is not, and the output explains why.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--project", help="W&B project (default: that of conf/tracker/wandb.yaml)")
    parser.add_argument("--entity", help="W&B user or team (default: the account's own)")
    parser.add_argument(
        "--group-by",
        nargs="+",
        metavar="COLUMN",
        default=GROUP_BY,
        help=f"config columns, such as temperature or temperature_start; runs with equal values "
        f"share a line (default: {' '.join(GROUP_BY)})",
    )
    parser.add_argument(
        "--where", nargs="+", metavar="COLUMN=VALUE", default=[], help="show only these runs"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="Markdown at the top of the report"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE",
        help=f"always write JSON: to {FILE} in a folder, or to a file (without a login: {FILE})",
    )
    parser.add_argument(
        "--sync",
        type=Path,
        metavar="OUTPUTS",
        help="only upload the offline runs in this folder",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
