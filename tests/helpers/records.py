"""What records of equal runs may differ in."""

from dataclasses import fields

from kdbench.records.record import RunRecord

_NAMES = [each.name for each in fields(RunRecord)]
CIRCUMSTANCES = tuple(_NAMES[_NAMES.index("seconds") :])  # when, where and how fast
