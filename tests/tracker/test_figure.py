from kdbench.tracker.figure import temperature_page


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


def test_nothing_softened_is_no_page():
    assert temperature_page([row(0)]) is None
    assert temperature_page([]) is None


PARTS = ("p5", "mean", "p95")
