"""A short name for what every test of a loss or a strategy makes."""

from kdbench.outputs import Outputs

of = Outputs.from_logits
