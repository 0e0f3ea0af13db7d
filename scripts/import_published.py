"""Cleans a collection of published numbers into kdbench/report/published/*.csv.

    python scripts/import_published.py published-results.csv [FOLDER]

One file per work that the numbers were read from. Names become those of conf/. Each row gets the
kind of its source (column "kind", see kdbench/report/published.py) and whether its number is of the
best or the last epoch (column "selection"). Nothing is merged or dropped: sources that disagree are
all kept.
"""

import argparse
import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdbench.files import write_atomic
from kdbench.report.published import COLUMNS, FOLDER

METHODS = {
    "none": "scratch",
    "KD": "kd",
    "KD+CTKD": "ctkd",
    "KD+LS": "logit_std",
    "KD+CTKD+LS": "ctkd_logit_std",
    "KD+DOT": "kd_dot",
    "DKD": "dkd",
    "DKD+CTKD": "dkd_ctkd",
    "DKD+LS": "dkd_logit_std",
    "DKD+RLKD": "dkd_rlkd",
    "DTKD": "dtkd",
    "MLKD": "mlkd",
    "MLKD+LS": "mlkd_logit_std",
    "TTM": "ttm",
    "WTTM": "wttm",
    "DIST": "dist",
    "NKD": "nkd",
    "Annealing-KD": "annealing_kd",
}
ASSISTANT = "assistant resnet20"  # of the rows of TAKD that have the assistant of method=takd
NETWORKS = {"shuffleV1": "shufflenetv1", "shuffleV2": "shufflenetv2"}
# Measured with RepDistiller, the code of CRD, and quoted by CIFAR-100 papers.
BEFORE_CRD = ["AB", "AT", "CC", "FSP", "FT", "FitNet", "KD", "NST", "PKT", "RKD", "SP", "VID"]
# Methods introduced or first measured by a work.
OWN = {
    "crd": [*BEFORE_CRD, "CRD"],
    "ctkd": ["KD+CTKD", "DKD+CTKD"],
    "continuation_kd": ["Continuation-KD"],
    "dist": ["DIST"],
    "dkd": ["DKD"],
    "dot": ["KD+DOT"],
    "dtkd": ["DTKD"],
    "itrd": ["ITRD"],
    "lskd": ["KD+LS", "KD+CTKD+LS", "DKD+LS", "MLKD+LS"],
    "mlkd": ["MLKD"],
    "reviewkd": ["ReviewKD"],
    "rlkd": ["DKD+RLKD"],
    "takd": ["TAKD", "none"],
    "torchdistill": [],
    "ttm": ["TTM", "WTTM", "WTTM without cross-entropy", "WTTM+CRD", "WTTM+ITRD"],
}

# The epoch of a work's own numbers, and the source of this. For other works it is unknown: a
# program that also logs its best epoch does not say which one is in the table.
SELECTION = {
    "crd": "last",  # an author, RepDistiller issue 16
    "itrd": "last",  # train_student.py says so of its README
    "dkd": "best",  # an author, mdistiller issue 30
    "dot": "best",  # in the same README
    "lskd": "best",  # its released logs, and issue 12
}
UNKNOWN = "unknown"


def clean(rows: Iterable[Mapping[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Rows by the work that they were read from (stem of its file), in their original order."""
    found = defaultdict(list)
    for row in rows:
        paper, _, quoted = row["paper"].partition("; ")
        work = slug(paper.split()[0])
        found[work].append(_clean(row, paper, quoted.removeprefix("quoting "), work))
    return _select(found)


def slug(name: str) -> str:
    """A name in the spelling of conf/."""
    return re.sub(r"[^a-z0-9/]+", "_", name.lower()).strip("_")


def _clean(row: Mapping[str, str], paper: str, quoted: str, work: str) -> dict[str, str]:
    renamed = {
        "paper": paper,
        "quoted": quoted,
        "dataset": slug(row["dataset"]).replace("cifar_", "cifar"),
        "teacher": NETWORKS.get(row["teacher"], slug(row["teacher"])),
        "student": NETWORKS.get(row["student"], slug(row["student"])),
        "method": "takd" if ASSISTANT in row["table"] else METHODS.get(row["method"], ""),
        "printed": row["method"],
        "student_top1": row["student_top1_baseline"],
        "kind": _kind(row, quoted, work),
    }
    return {name: renamed.get(name, row.get(name, "")) for name in COLUMNS}


def _kind(row: Mapping[str, str], quoted: str, work: str) -> str:
    if row["confidence"] == "from-memory":
        return "memory"
    if any(word in row["table"] for word in ("training log", "figure", "file name")):
        return "log"
    if quoted:
        return "quoted"
    return "own" if row["method"] in OWN[work] else "other"


def _select(found: Mapping[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    """Sets the selection of the rows; a quoted number has that of its origin."""
    origins = defaultdict(set)
    for work, rows in found.items():
        for row in rows:
            if row["kind"] != "quoted":
                is_its_own = row["kind"] in ("own", "log")
                row["selection"] = SELECTION.get(work, UNKNOWN) if is_its_own else UNKNOWN
                origins[_number(row)].add(row["selection"])
    for row in (row for rows in found.values() for row in rows if row["kind"] == "quoted"):
        known = origins[_number(row)] - {UNKNOWN}
        row["selection"] = known.pop() if len(known) == 1 else UNKNOWN
    return dict(found)


def _number(row: Mapping[str, str]) -> tuple:
    cell = (row["dataset"], row["teacher"], row["student"], row["printed"])
    return (*cell, float(row["top1_mean"]))


def render(rows: Iterable[Mapping[str, str]]) -> bytes:
    """The content of one file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    arguments = parser.parse_args()
    with arguments.collection.open(newline="") as file:
        found = clean(csv.DictReader(file))
    for work, rows in found.items():
        write_atomic(arguments.folder / f"{work}.csv", render(rows))
        print(f"{len(rows):4} {work}")


if __name__ == "__main__":
    main()
