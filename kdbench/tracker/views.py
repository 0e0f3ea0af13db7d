"""A W&B workspace and a W&B report of ``panels.sections``, built with wandb-workspaces."""

import json
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

from kdbench.tracker.panels import Chart, DashboardView, sections
from kdbench.words import join_words

TITLE = "Temperature strategies"
_READING = (
    "Lines and bars are means over runs with equal {columns}, bands are one standard deviation "
    "(over seeds, if nothing else differs). For the significance of differences, use "
    "kdbench-report."
)
_MAX_RUNS = 500  # per chart; W&B's default is 10
_COLUMNS = 2  # charts in a row
_GRID, _HEIGHT = 24, 8  # of a report, in its units: width of a row, height of a chart


def build_workspace(view: DashboardView) -> workspaces.Workspace:
    """A saved view of a project: sections of charts, with runs grouped and filtered."""
    return workspaces.Workspace(
        entity=view.entity,
        project=view.project,
        name=TITLE,
        sections=[
            workspaces.Section(
                name=section.title,
                panels=[_panel(chart) for chart in section.charts],
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=_COLUMNS, rows=3),
            )
            for section in sections()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="epoch", max_runs=_MAX_RUNS),
        runset_settings=workspaces.RunsetSettings(
            filters=_filters(view),
            groupby=[workspaces.Config(column) for column in view.group_by],
            pinned_columns=[f"summary:{name}" for name in ("top1_last", "convergence/aulc")],
        ),
    )


def build_report(view: DashboardView, connected: bool) -> reports.Report:
    """The same charts as a report with text.

    Args:
        view: what to show.
        connected: whether the W&B server may be queried for the project.
    """
    blocks: list[Any] = [
        reports.TableOfContents(),
        reports.P(_READING.format(columns=join_words(view.group_by))),
    ]
    blocks += [reports.MarkdownBlock(view.text)] if view.text else []
    for section in sections():
        runs = reports.Runset(
            entity=view.entity if connected else "",
            project=view.project,
            name="runs",
            filters=_filters(view),
            groupby=[f"config.{column}" for column in view.group_by],
        )
        panels = [_panel(chart, place) for place, chart in enumerate(section.charts)]
        blocks += [reports.H2(section.title), reports.P(section.text)]
        blocks += [reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(
        entity=view.entity, project=view.project, title=TITLE, blocks=blocks, width="fluid"
    )


def to_json(view: DashboardView) -> str:
    """Both as W&B stores them, under "workspace" and "report"."""
    models = {
        "workspace": build_workspace(view)._to_model(),
        "report": build_report(view, connected=False)._to_model(),
    }
    document = {
        name: model.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, model in models.items()
    }
    return json.dumps(document, indent=1)


def _filters(view: DashboardView) -> workspaces.And:
    wanted = [workspaces.Config(column) == value for column, value in view.where.items()]
    return workspaces.And(workspaces.Metric("JobType") == "train", *wanted)


def _panel(chart: Chart, place: int = 0) -> Any:
    """A panel; ``place`` is its index in the section, row by row."""
    width, height = _GRID // _COLUMNS, _HEIGHT
    layout = reports.Layout(
        x=place % _COLUMNS * width, y=place // _COLUMNS * height, w=width, h=height
    )
    common: dict[str, Any] = {
        "title": chart.title,
        "layout": layout,
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": chart.spread,
        "max_runs_to_show": _MAX_RUNS,
    }
    if chart.kind == "bar":
        return reports.BarPlot(metrics=list(chart.metrics), title_x=chart.axis, **common)
    return reports.LinePlot(
        x=chart.x, y=list(chart.metrics), title_x=chart.x, title_y=chart.axis, **common
    )
