import csv
from xml.etree import ElementTree

from scripts import write_study
from tests.helpers.synthetic import Study
from tests.helpers.synthetic import write_study as make_runs

STUDY = Study(
    rows=(("scratch", "none"), ("kd", "constant"), ("kd", "dtkd")),
    pairs=("resnet56_resnet20",),
    seeds=3,
    epochs=4,
)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_study_keeps_every_run_and_draws_it(tmp_path):
    make_runs(tmp_path / "runs", STUDY)
    kept = tmp_path / "study"
    write_study.main([str(tmp_path / "runs"), str(kept)])
    runs, epochs = read(kept / "runs.csv"), read(kept / "epochs.csv")
    assert len(runs) == 9
    assert len(epochs) == 9 * 4
    last = {(e["temperature"], e["seed"]): float(e["test/top1"]) for e in epochs}
    for run in runs:
        assert abs(float(run["top1_last"]) - last[run["temperature"], run["seed"]]) < 0.01
    assert "| kd, dtkd |" in (kept / "table.md").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in kept.iterdir())
    accuracy, temperature = (
        ElementTree.parse(kept / f"{name}.svg").getroot() for name in ("accuracy", "temperature")
    )
    dots = [node for node in accuracy.iter() if "opacity: 0.55" in node.get("style", "")]
    assert len([node for node in dots if node.tag.endswith("use")]) == 9
    names = {node.text for node in temperature.iter() if node.tag.endswith("text")}
    assert {"kd", "kd, dtkd"} <= names
    assert "scratch" not in names  # a student alone has no temperature
