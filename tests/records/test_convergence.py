from kdbench.records.convergence import epochs_to, summarise_convergence


def test_epochs_to_a_level():
    assert [epochs_to([10, 40, 35, 60], level) for level in (5, 40, 50, 61)] == [1, 2, 4, None]


def test_summary():
    found = summarise_convergence([{"a": 20.0}, {"a": 60.0}], "a")
    assert found == {
        "aulc": 40.0,
        "epochs_to": {"10": 1, "20": 1, "30": 2, "40": 2, "50": 2, "55": 2, "60": 2},
    }
    assert summarise_convergence([], "a") == {"aulc": None, "epochs_to": {}}
