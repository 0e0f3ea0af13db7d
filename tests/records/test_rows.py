import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.errors import ConfigError, DataError, ResourceError
from kdbench.records.rows import read_metrics, write_metrics


def bits(value):
    return struct.pack("<d", value)


@settings(deadline=None)  # the first file of a process is slow
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=8))
def test_every_float_round_trips_exactly(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    write_metrics(path, [{"epoch": i, "x": value} for i, value in enumerate(values)])
    assert [bits(row["x"]) for row in read_metrics(path)] == [bits(value) for value in values]


def test_columns_are_in_order_of_first_appearance(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [{"epoch": 1, "train/loss": 0.1}, {"epoch": 2, "test/top1": 50.0, "train/loss": -2.5}]
    write_metrics(path, rows)
    assert path.read_text() == "epoch,train/loss,test/top1\n1,0.1,\n2,-2.5,50.0\n"
    assert read_metrics(path) == rows


def test_nan_infinity_and_numpy_scalars(tmp_path):
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"a": math.nan, "b": -math.inf, "c": np.float64(0.1), "d": np.int64(3)}])
    assert path.read_text() == "a,b,c,d\nnan,-inf,0.1,3\n"
    row = read_metrics(path)[0]
    assert math.isnan(row["a"])
    assert row["b"] == -math.inf


def test_writing_again_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"epoch": i} for i in range(5)])
    write_metrics(path, [{"epoch": 1, "x": 1.0}])
    assert read_metrics(path) == [{"epoch": 1.0, "x": 1.0}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-x", "@sum", "a,b", "a\nb", ""])
def test_a_column_cannot_be_a_formula(tmp_path, name):
    with pytest.raises(ConfigError, match="column"):
        write_metrics(tmp_path / "metrics.csv", [{name: 1.0}])


def test_a_value_cannot_be_a_formula(tmp_path):
    with pytest.raises(ValueError, match="cmd"):
        write_metrics(tmp_path / "metrics.csv", [{"x": "=cmd()"}])


def test_no_rows_are_an_empty_table(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [])
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_file_that_counts_epochs_from_zero_is_converted(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,x\n0,5,0.5\n1,10,0.25\n")
    assert [(row["epoch"], row["step"]) for row in read_metrics(path)] == [(1, 5), (2, 10)]


@pytest.mark.parametrize("epochs", [(1, 3), (0, 2), (2, 3), (1, 1), (0, 0.5), (1, None)])
def test_epochs_that_are_not_consecutive_are_refused(tmp_path, epochs):
    path = tmp_path / "metrics.csv"
    rows = [{"x": 1.0} | ({} if epoch is None else {"epoch": epoch}) for epoch in epochs]
    write_metrics(path, rows)
    with pytest.raises(DataError, match=r"metrics\.csv.*its epochs are .*should be 1, 2, 3"):
        read_metrics(path)


@pytest.mark.parametrize("text", ["epoch,x\n0,abc\n", "epoch\n0,1\n", "epoch,x\n0,\x00\n"])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


def test_an_impossible_folder_is_a_resource_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"metrics\.csv"):
        write_metrics(tmp_path / "file" / "metrics.csv", [{"epoch": 0}])
