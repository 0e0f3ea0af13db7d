from kdbench.tracker.figure import collect_curves

PARTS = ("p5", "mean", "p95")


def row(epoch, **temperatures):
    return {"epoch": epoch} | {f"temperature/{name}": t for name, t in temperatures.items()}


def test_both_temperatures_are_in_one_chart_with_their_bands():
    rows = [
        row(k, **{f"{who}_{part}": 8.0 - k for who in ("teacher", "student") for part in PARTS})
        for k in range(1, 4)
    ]
    curves = collect_curves(rows)["figures/temperature"]
    assert curves.epochs == [1, 2, 3]
    assert set(curves.lines) == {
        f"{who} {part}" for who in ("teacher", "student") for part in PARTS
    }
    assert curves.lines["student mean"] == [7, 6, 5]


def test_what_was_not_measured_has_no_line_and_no_chart():
    assert collect_curves([row(1)]) == collect_curves([]) == {}
    assert list(collect_curves([row(1, teacher_mean=4.0)])["figures/temperature"].lines) == [
        "teacher mean"
    ]


def test_accuracy_is_of_the_splits_that_were_measured():
    rows = [{"epoch": k, "train/top1": 20.0 * k, "val/top1": 10.0 * k} for k in range(3)]
    assert list(collect_curves(rows)["figures/accuracy"].lines) == ["train", "val"]
