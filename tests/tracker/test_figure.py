from kdbench.tracker.figure import accuracy_page, draw_pages, result_page, temperature_page

PARTS = ("p5", "mean", "p95")


def row(epoch, **temperatures):
    return {"epoch": epoch} | {f"temperature/{name}": t for name, t in temperatures.items()}


def test_both_temperatures_are_drawn_with_their_bands():
    rows = [
        row(k, **{f"{who}_{part}": 8.0 - k for who in ("teacher", "student") for part in PARTS})
        for k in range(4)
    ]
    page = temperature_page(rows)
    assert page.count('class="band ') == page.count('class="line ') == 2
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_one_epoch_of_one_network_without_quantiles_is_drawn():
    assert 'class="line teacher"' in temperature_page([row(0, teacher_mean=4.0)])


def test_what_was_not_measured_has_no_page():
    assert temperature_page([row(0)]) is None
    assert temperature_page([]) is None
    assert draw_pages([row(0)], {}) == {}


def test_accuracy_is_drawn_of_the_splits_that_were_measured():
    rows = [{"epoch": k, "train/top1": 20.0 * k, "val/top1": 10.0 * k} for k in range(3)]
    page = accuracy_page(rows)
    assert [part in page for part in ("train and val", "line alone", "line base")] == [True] * 3
    assert "test" not in page


def test_the_table_has_every_number_and_its_style_is_not_escaped():
    page = result_page({"top1_last": 71.25, "test/nll": 1.23456789, "epochs_done": 240, "<b>": 1})
    for name, value in {"top1_last": "71.25", "test/nll": "1.23457", "epochs_done": "240"}.items():
        assert f"<th>{name}</th><td>{value}</td>" in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert '"Segoe UI"' in page


def test_a_run_that_is_done_has_figures_and_a_table():
    rows = [row(0, teacher_mean=4.0) | {"test/top1": 50.0}]
    found = draw_pages(rows, {"top1_last": 50.0})
    assert list(found) == ["figures/accuracy", "figures/temperature", "table/result"]
