import json

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.config.compose import compose_config
from kdbench.engine.metrics import TrainMeter
from kdbench.model.compute import Compute
from kdbench.objective.objective import LossTerms
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from scripts.bench import overhead as bench_overhead
from scripts.bench import scaling as bench_scaling
from scripts.bench.overhead import Length, Observed, ShortEpochs

THREADS = f"--threads={torch.get_num_threads()}"  # what this process has anyway
SMALL = ["--pair=resnet20_resnet8", "--device=cpu", "--rounds=1", "--steps=1", THREADS]


@pytest.fixture
def photos(tmp_path):
    """A folder of data with 4 small photographs in 2 classes."""
    for name in ("a", "b"):
        (tmp_path / "data" / "imagenet-sample" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "imagenet-sample" / name / f"{i}.jpg")
    return tmp_path / "data"


def read_report(folder, name):
    (path,) = (folder / "bench").glob(f"{name}-*.json")
    return json.loads(path.read_text())


def require_circumstances(report):
    assert report["cpu"]
    assert report["gpu"] is None
    assert report.keys() >= {"date", "device", "precision", "threads", "rounds"}
    assert report["environment"].keys() >= {"git", "versions", "cores", "machine"}


def test_cohort_runs_the_teacher_once_and_trains_each():
    assert [bench_scaling.cohort_cost(n, teacher=2, single=5) for n in (1, 2, 4)] == [5, 8, 14]


def test_classes_cost_multiply_adds_and_elements():
    # 10 s for 1000 multiply-adds; 4 s for 400 elements, so 1 s for 100.
    costs = bench_scaling.class_costs([1000, 1100, 1300], [100, 200, 400], step=10, loss=4)
    assert costs == pytest.approx([10, 11 + 1, 13 + 3])


def test_elements_are_counted_without_views():
    left, right = torch.zeros(2, 3), torch.zeros(2, 1)
    assert bench_scaling.count_elements(lambda: (left + right).t().expand(3, 2).sum()) == 7


def test_loss_grows_by_the_same_number_of_elements_for_each_class():
    cfg, counts = compose_config(["dataset=fake"]), []
    compute = Compute(torch.device("cpu"), "fp32", torch.channels_last)
    for classes in (10, 100, 1000):
        cfg.dataset.num_classes = classes
        counts.append(bench_scaling.count_elements(bench_scaling.make_loss(cfg, compute)))
    assert counts[2] - counts[1] == 10 * (counts[1] - counts[0]) > 0


def test_ratios_are_within_a_round_and_beside_the_expected_ones():
    rounds = [{"32": 2, "64": 6}, {"32": 1, "64": 4}, {"32": 4, "64": 20}]
    table = bench_scaling.make_table("t", "l", rounds, {"32": 32**2, "64": 64**2})
    first, second = table["rows"]
    assert (first["ratio"], first["expected"], first["median"]) == (1, 1, 2)
    assert (second["ratio"], second["expected"], second["median"]) == (4, 4, 6)
    assert (second["min"], second["max"], second["rounds"]) == (4, 20, [6, 4, 20])


def test_rates_of_loaders_are_images_per_second():
    rounds = [{"kdbench 0": 1, "torchvision 0": 2}, {"kdbench 0": 2, "torchvision 0": 2}]
    row = bench_scaling.summarize_loaders(0, 100, rounds)
    assert (row["kdbench"], row["kdbench_per_core"], row["torchvision"]) == (75, 75, 50)
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (1.5, 1, 2)


@pytest.mark.slow
def test_scaling_prints_its_tables_and_writes_its_report(tmp_path, photos, capsys):
    values = ["--learners=2", "--classes=10,20", "--sizes=16,32", "--samples=100,300"]
    small = ["--override", "dataset.image_size=32"]
    places = [f"--outputs={tmp_path / 'out'}", f"--data={photos}"]
    bench_scaling.main([*SMALL, *values, *places, *small])
    report = read_report(tmp_path / "out", "scaling")
    require_circumstances(report)
    *tables, decoding, sharing = report["tables"]
    values = [[row["value"] for row in table["rows"]] for table in tables]
    assert values == [["1", "2"], ["10", "20"], ["16", "32"], *4 * [["100", "300"]]]
    for table in [*tables, sharing]:
        assert table["rows"][0]["ratio"] == table["rows"][0]["expected"] == 1
        assert all(len(row["rounds"]) == 1 for row in table["rows"])
    assert tables[0]["teacher_seconds"] > 0
    assert [row["expected"] for row in tables[2]["rows"]] == [1, 4]
    assert [row["expected"] for row in tables[-1]["rows"]] == [1, 3]
    assert tables[-1]["rows"][1]["median"] > 300 * 40 * 40 * 3 / 1e6
    assert [row["workers"] for row in decoding["rows"]] == [0, 1, 2]
    assert decoding["images"] == 4
    assert all(row["kdbench"] > 0 and row["torchvision"] > 0 for row in decoding["rows"])
    assert sharing.keys() >= {"decode_seconds", "saved_seconds"}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 8 * (2 + 2) + 2 + 3


def test_missing_photographs_are_refused_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench_scaling.main([*SMALL, f"--outputs={tmp_path}", f"--data={tmp_path / 'nowhere'}"])
    assert stopped.value.code == 3
    said = capsys.readouterr()
    assert "nowhere/imagenet-sample with class folders" in said.err
    assert "round" not in said.out.replace("rounds", "")


def test_only_takes_the_names_of_tables(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench_scaling.main(["--only=learners,colours"])
    assert stopped.value.code == 2
    assert "'colours' must be one of learners, classes" in capsys.readouterr().err


def test_share_of_a_part_is_its_time_in_a_whole_epoch():
    parts = {what: [0.0] for what in bench_overhead.UNIT}
    parts |= {
        "TrainMeter.update": [0.001, 0.003, 0.002],
        "Journal.commit": [0.2],
        "WandbTracker.start": [5],
    }
    found = Observed(step=[0.1, 0.1, 0.7], rest=[10], parts=parts)
    report = bench_overhead.summarize(found, Length(epochs=10, steps_per_epoch=400))
    assert report["epoch_seconds"] == 400 * 0.1 + 10
    shares = {part: share for part, share in report["shares"].items() if share}
    assert shares == pytest.approx({"meters": 0.8 / 50, "checkpoints": 0.2 / 50, "W&B": 0.5 / 50})
    assert report["share"] == pytest.approx(0.03)
    update = report["rows"][0]
    assert (update["ms"], update["ms_min"], update["ms_max"]) == pytest.approx((2, 1, 3))
    said = bench_overhead.conclude(report | {"epochs": 10, "steps_per_epoch": 400})
    assert "3.00% of a run" in said
    assert "more than 2%: meters 1.60%" in said


def test_an_epoch_is_cut_and_the_rest_of_the_data_is_unchanged():
    class Data:
        steps_per_epoch, num_train = 5, 10

        def train_batches(self, epoch, start, views):
            yield from range(start, 5)

    data = ShortEpochs(Data(), 3)
    assert (data.steps_per_epoch, data.num_train) == (3, 10)
    assert list(data.train_batches(0)) == [0, 1, 2]
    assert list(data.train_batches(0, start=2)) == [2]
    assert ShortEpochs(Data(), 99).steps_per_epoch == 5


def test_a_filled_meter_has_the_temperatures_of_a_whole_epoch():
    meter, tau = TrainMeter(), torch.tensor([[1.0], [2.0], [3.0]])
    terms = LossTerms({"ce": torch.ones(3)}, Temperatures(tau, tau, torch.ones(3)))
    meter.update(terms, Outputs.from_logits(None, torch.eye(3), torch.arange(3)))
    before = meter.compute()
    bench_overhead.fill(meter, 10, torch.device("cpu"))
    assert len(meter.state_dict()["student/all"]) == 10
    assert meter.compute()["temperature/student_mean"] == before["temperature/student_mean"]


@pytest.mark.slow
def test_overhead_is_measured_in_a_real_run(tmp_path, wandb_nobody, capsys):
    update = TrainMeter.update
    bench_overhead.main([*SMALL, "--dataset=fake", f"--outputs={tmp_path / 'out'}"])
    report = read_report(tmp_path / "out", "overhead")
    require_circumstances(report)
    assert (report["epochs"], report["steps_per_epoch"], report["short_steps"]) == (240, 8, 1)
    assert {row["what"] for row in report["rows"]} == set(bench_overhead.UNIT)
    assert all(row["ms"] > 0 for row in report["rows"])
    assert report["share"] == pytest.approx(sum(row["share"] for row in report["rows"]))
    assert report["epoch_seconds"] > 8 * report["step_seconds"] > 0
    assert [path.suffix for path in (tmp_path / "out" / "bench").iterdir()] == [".json"]
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.startswith("|")]) == 2 + 12
    assert "Total " in said
    assert TrainMeter.update is update
