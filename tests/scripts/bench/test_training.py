import importlib
import json
import sys
from argparse import Namespace
from collections import deque
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from kdbench.config.build import build, build_objective
from kdbench.config.compose import compose_config
from kdbench.teacher.teacher import Teacher
from scripts.bench import common as bench_common
from scripts.bench import field_loop, profile_step
from scripts.bench import training as bench

FAKE = [
    "dataset.image_size=8",
    "dataset.batch_size=8",
    "dataset.train_size=40",
    "dataset.test_size=20",
]
PAIR = "resnet20_resnet8"
TINY = [
    *("--dataset=fake", f"--pairs={PAIR}", "--device=cpu", "--precision=fp32"),
    *("--learners=2", "--rounds=2", "--seconds=0.02", "--profiled=1", "--workers=0,1"),
    f"--threads={torch.get_num_threads()}",  # what this process has anyway
]


class InsidePlayer:
    """Runs the commands of a player in this process."""

    def __init__(self, script, arguments):
        module = importlib.import_module(f"scripts.bench.{script.removesuffix('.py')}")
        self.lines = deque()
        lines = iter(self.lines.popleft, "quit")
        self.replies = module.serve(module.parse_arguments(arguments), lines)

    def request(self, line):
        self.lines.append(line)
        return json.loads(json.dumps(next(self.replies)))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.replies.close()


@pytest.fixture
def tiny(tmp_path):
    """A benchmark's circumstances, and the overrides of its runs."""
    overrides = [
        *("dataset=fake", f"paths.outputs='{tmp_path}'", "tracker=csv", "run.epochs=240"),
        *("run.device=cpu", f"run.threads={torch.get_num_threads()}", *FAKE),
        "speed=none",  # same results as speed=full: see test_same_results.py
    ]
    return bench_common.open_bench(overrides, PAIR), [*overrides, f"pair={PAIR}"]


def test_both_sides_measure_the_same_loss():
    torch.manual_seed(0)
    teacher, student = 4 * torch.randn(64, 100), 4 * torch.randn(64, 100)
    targets = torch.randint(100, (64,))
    objective = build_objective(compose_config(["method=kd"]))
    terms = objective.from_logits(teacher, student, targets).terms
    kd = field_loop.KD_WEIGHT * field_loop.kd_loss(student, teacher)
    ce = field_loop.CE_WEIGHT * torch.nn.functional.cross_entropy(student, targets)
    torch.testing.assert_close(terms["kd"].mean(), kd, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["ce"].mean(), ce, rtol=1e-6, atol=0)


def test_both_sides_do_the_same_work(tiny):
    circumstances, overrides = tiny
    batches = list(islice(bench_common.endless(circumstances.data), 20))
    cfgs = bench_common.compose_runs(overrides, 1)
    network = bench_common.fresh_teacher(cfgs[0], batches[0], circumstances.compute)
    trainer = bench_common.make_trainer(
        Teacher(network, circumstances.compute, "digest"), cfgs, circumstances
    )
    learner = trainer.runs[0].learner
    teacher = build(cfgs[0].teacher.model).eval()
    teacher.load_state_dict(network.state_dict())
    student = build(cfgs[0].student)
    student.load_state_dict(learner.student.state_dict())
    optimizer = field_loop.make_optimizer(student)
    losses = []
    for batch in batches:
        learner.meter.reset()
        bench_common.advance(trainer, [batch])
        images = batch.images.contiguous()
        loss, *_ = field_loop.train_step(student, teacher, optimizer, images, batch.targets)
        losses.append((loss, learner.meter.loss()))
    for field, ours in losses:
        assert ours == pytest.approx(field, rel=1e-4)
    assert losses[-1] != losses[0]


def test_field_prepares_images_as_kdbench_does(tiny, tmp_path):
    circumstances, _ = tiny
    (path,) = (tmp_path / "cache" / "datasets").iterdir()
    dataset = circumstances.cfg.dataset
    args = Namespace(
        data=path, mean=dataset.mean, std=dataset.std, batch_size=8, workers=0, device="cpu"
    )
    loader = field_loop.make_loader(args)
    torch.manual_seed(0)
    images = torch.stack([loader.dataset[3][0] for _ in range(400)])
    views = torch.cat([b.images[b.index == 3] for e in range(150) for b in train(tiny, e)])
    distances = torch.stack([(images - view).abs().amax((1, 2, 3)).min() for view in views])
    assert distances.median() < 1e-5  # a few of the 162 views were not drawn
    assert loader.dataset[3][1] == 3 % dataset.num_classes


def train(tiny, epoch):
    return tiny[0].data.train_batches(epoch)


def test_accuracy_is_in_percent():
    logits = torch.eye(8)
    top1, top5 = field_loop.accuracy(logits, torch.tensor([0, 1, 2, 3, 0, 0, 0, 7]))
    assert top1 == 100 * 5 / 8
    assert top5 >= top1


@pytest.mark.slow
def test_script_prints_the_table_and_writes_its_report(tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(bench, "Player", InsidePlayer)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # to be put back
    monkeypatch.setattr(bench, "time_process", lambda command: len(commands.append(command) or "s"))
    outputs = tmp_path / "out"
    bench.main([*TINY, f"--outputs={outputs}", "--override", *FAKE])
    (path,) = (outputs / "bench").glob("*.json")
    assert sorted(p.name for p in outputs.iterdir()) == ["bench", "cache"]
    report = json.loads(path.read_text())
    assert report["environment"]["versions"]["torch"] in torch.__version__
    assert report.keys() >= {"date", "cpu", "gpu", "device", "precision", "threads", "batch_size"}
    assert report["override"] == FAKE
    assert report["workers"][PAIR].keys() == {"0", "1"}
    rows = {row["kind"]: row for row in report["rows"]}
    assert list(rows) == [k for k in ROW_ORDER]
    for kind, row in rows.items():
        assert row["min"] <= row["value"] <= row["max"]
        assert len(row["values"]) == (1 if kind in ("memory", "outside") else 2)
    assert rows["batches"]["target"] == 20
    assert rows["batches"]["met"] == (rows["batches"]["value"] >= 20)
    assert rows["single"]["target"] is None
    assert rows["single"]["seconds"].keys() == {"field", "single"}
    assert rows["memory"]["value"] > 100
    profile = rows["outside"]["profile"]
    assert profile["kinds"].keys() >= {"convolution", "batch norm", "optimizer", "data", "between"}
    # From two clocks, so on a busy machine it can be any value below 1.
    assert profile["outside"] < 1
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len(commands) == 3 * (1 + 2)
    assert {"method=kd", "teacher.expected_top1=0", *FAKE} <= set(commands[1])


ROW_ORDER = [
    *("single", "cohort", "memo", "memory", "outside"),
    *("batches", "start", "above", "scratch"),
]


def test_mistakes_are_refused_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main([*TINY, f"--outputs={tmp_path}", "--pairs=resnet20_resnet9"])
    assert stopped.value.code == 2
    assert "resnet20_resnet9 does not exist" in capsys.readouterr().err


def test_order_of_the_turns_is_reversed_every_round():
    turns = []

    def work(name):
        return lambda steps: turns.append((name, steps)) or 0.5 * steps

    args = Namespace(rounds=2, seconds=4.0)
    rounds = bench.race("pair", {"a": work("a"), "b": work("b")}, args)
    assert turns == [("a", 3), ("b", 3), ("a", 8), ("b", 8), ("b", 8), ("a", 8)]
    assert rounds == [{"a": 0.5, "b": 0.5}] * 2


def test_short_steps_are_counted_in_a_longer_trial():
    trials = []
    assert bench.count_steps(lambda steps: trials.append(steps) or 0.001 * steps, 1.0) == 1000
    assert trials == [3, 12, 48, 192]


def test_row_states_whether_its_target_is_met():
    match = SimpleNamespace(pair=bench.SMALL, args=Namespace(learners=8))
    row = bench.summarize("cohort", match, [4.0, 5.5, 5.2])
    assert (row["value"], row["target"], row["met"]) == (5.2, 5.0, True)
    assert bench.describe(row) == {
        "what": "sweep of 8, x",
        "pair": bench.SMALL,
        "measured": "5.20",
        "span": "4.00-5.50",
        "goal": ">= 5",
        "verdict": "met",
    }
    assert bench.summarize("memory", match, [2600.0])["met"] is False


def test_kind_of_an_operation_is_its_scope_or_the_nearest_known_name():
    def event(*names):
        found = None
        for name in names:
            found = SimpleNamespace(name=name, cpu_parent=found)
        return found

    kinds = {
        "casts and copies": event("aten::conv2d", "aten::to", "aten::_to_copy", "aten::empty"),
        "convolution": event("aten::conv2d", "aten::mkldnn_convolution", "aten::empty"),
        "batch norm": event("autograd: NativeBatchNormBackward0", "aten::empty_like"),
        "activation, addition, pooling": event("autograd: ReluBackward0"),
        "optimizer": event("Optimizer.step#SGD.step", "aten::_foreach_add_", "aten::add_"),
        "loss, temperature, meters": event("scope: loss", "aten::to", "aten::copy_"),
        "linear": event("autograd: AddmmBackward0", "aten::mm"),
        "other operations": event("aten::something"),
    }
    assert {kind: profile_step.kind_of(found) for kind, found in kinds.items()} == {
        kind: kind for kind in kinds
    }


def test_side_that_dies_ends_the_benchmark(tmp_path):
    match = "gone.py did not reply to 'steps 1'"
    with pytest.raises(SystemExit, match=match), bench.Player("gone.py", []) as player:
        player.request("steps 1")


def test_field_loop_replies_to_commands(tiny, tmp_path, monkeypatch, capsys):
    circumstances, overrides = tiny
    cfg, weights = bench_common.save_teacher(PAIR, circumstances, overrides, tmp_path)
    args = Namespace(override=[], learners=2)
    called = []
    monkeypatch.setattr(bench, "Player", lambda script, arguments: called.append(arguments))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(sys, "stdin", ["steps 1\n", "batches 2\n", "quit\n"])
    bench.Match(args, circumstances, PAIR, cfg, weights).field(workers=0)
    field_loop.main(called[0])
    replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [reply.keys() for reply in replies] == [{"seconds"}, {"seconds"}]
    assert all(reply["seconds"] > 0 for reply in replies)


@pytest.mark.slow
def test_sides_run_in_separate_processes(tiny, tmp_path):
    circumstances, overrides = tiny
    cfg, weights = bench_common.save_teacher(PAIR, circumstances, overrides, tmp_path)
    args = bench.parse_arguments([*TINY, f"--outputs={tmp_path}", "--override", *FAKE])
    match = bench.Match(args, circumstances, PAIR, cfg, weights)
    with match.field(workers=2) as field, match.kdbench("memo") as ours:
        assert field.request("steps 2")["seconds"] > 0
        assert ours.request("steps 2")["seconds"] > 0
        assert ours.request("memory")["megabytes"] > 100
        assert field.request("batches 2")["seconds"] > 0


@pytest.mark.slow
def test_start_is_killed_after_the_first_step_and_timed(tmp_path):
    command = [sys.executable, "-m", "kdbench.cli.train", "debug=smoke", "method=scratch"]
    assert bench.time_process([*command, f"paths.outputs={tmp_path}"]) > 0.5
    assert not list(tmp_path.rglob("record.json"))
    with pytest.raises(SystemExit, match="no_such_key"):
        bench.time_process([*command, "no_such_key=1"])
