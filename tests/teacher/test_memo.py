"""The teacher memo: what it saves, that it is correct, and what it survives."""

import errno
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key
from kdbench.config.overrides import check_overrides
from kdbench.data.base import Batch
from kdbench.engine.assemble import open_data, open_memo
from kdbench.engine.job import Job
from kdbench.engine.run import train_jobs
from kdbench.errors import ConfigError, ResourceError
from kdbench.model.compute import choose_compute
from kdbench.model.load import load_model
from kdbench.outputs import NetworkOutput
from kdbench.teacher.memo import Memo, MemoIdentity, MemoryStore
from kdbench.teacher.memo_file import HEADER_BYTES, FileStore
from kdbench.teacher.teacher import Teacher
from tests.helpers.harness import TINY, context

CPU = torch.device("cpu")
SMALL = MemoIdentity(
    teacher_digest="t",
    dataset_digest="d",
    num_samples=30,
    num_views=4,
    num_classes=5,
    preprocessing={"mean": [0.5]},
    precision="fp32",
    layout="channels_last",
    device_type="cpu",
)
EVERYTHING = torch.arange(SMALL.num_rows)


class Network:
    """Logits of row r are r * (1, 2, 3, ...); counts the rows that pass through it."""

    def __init__(self):
        self.rows = 0

    def __call__(self, images):
        self.rows += len(images)
        return self.right(images)

    @staticmethod
    def right(rows):
        return rows[:, None].float() * torch.arange(1.0, 6.0)


def lookup(memo, rows, network):
    """Logits of rows of SMALL; the images are the row numbers."""
    return memo.lookup(rows, rows // 4, rows % 4, network)


def open_store(mode, folder, identity=SMALL):
    return FileStore(folder, identity, CPU) if mode == "disk" else MemoryStore(identity, CPU)


def filled_file(folder):
    """Path of a full memo."""
    store = FileStore(folder, SMALL, CPU)
    lookup(Memo(store, 4), EVERYTHING, Network())
    return store.path


def row_place(number):
    return HEADER_BYTES + number * (8 + 4 * SMALL.num_classes)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# --- a store by itself


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_a_row_is_computed_once(tmp_path, mode, caplog):
    memo, network = Memo(open_store(mode, tmp_path), 4), Network()
    shuffled = EVERYTHING[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    for batch in (shuffled[:50], shuffled[30:90], shuffled[60:], EVERYTHING):
        assert torch.equal(lookup(memo, batch, network), Network.right(batch))
    assert network.rows == 120
    report = memo.report()
    assert (report["mode"], report["asked"], report["remembered"]) == (mode, 290, 170)
    assert memo.summary().startswith(f"teacher memo ({mode}): 58.6 % hits in 290 lookups, ")
    assert not warnings(caplog)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_cached_logits_of_a_real_network_agree_with_recomputed_ones(tmp_path, mode):
    torch.manual_seed(0)
    compute = choose_compute("cpu", "fp32", True)
    teacher = Teacher(load_model("resnet8", num_classes=5), compute, "t")
    teacher.memo = Memo(open_store(mode, tmp_path), 4)
    images, index, view = torch.randn(60, 3, 32, 32), torch.arange(60) // 2, torch.arange(60) % 4

    def batch(part):
        return Batch(images[part], index[part], index[part], view[part])

    for part in (slice(0, 7), slice(3, 33)):  # the second is partly cached
        teacher.query(batch(part))
    first = teacher.query(batch(slice(0, 60))).logits
    fresh = teacher(images)
    assert (first - fresh).abs().max() <= 1e-5 * fresh.abs().max()
    assert torch.equal(teacher.query(batch(slice(0, 60))).logits, first)
    assert teacher.query(batch(slice(0, 60))).logits.is_contiguous()


def test_batches_without_numbered_views_bypass_it():
    network, images = torch.nn.Flatten(), torch.ones(3, 1, 2, 2)
    teacher = Teacher(network, choose_compute("cpu", "fp32", True), "t")
    teacher.memo = Memo(MemoryStore(replace(SMALL, num_classes=4), CPU), 4)
    index = torch.arange(3)
    assert torch.equal(teacher.query(Batch(images, index, index, None)).logits, images.flatten(1))
    assert teacher.memo_report()["asked"] == 0


def test_a_file_is_reused_and_other_teachers_have_their_own(tmp_path):
    path = filled_file(tmp_path)
    network = Network()
    lookup(Memo(FileStore(tmp_path, SMALL, CPU), 4), EVERYTHING, network)
    assert network.rows == 0
    others = [
        {"teacher_digest": "u"},
        {"dataset_digest": "e"},
        {"num_samples": 31},
        {"num_views": 5},
        {"preprocessing": {"mean": [0.6]}},
        {"precision": "bf16"},
        {"layout": "contiguous_format"},
        {"device_type": "cuda"},
    ]
    paths = {FileStore(tmp_path, replace(SMALL, **other), CPU).path for other in others}
    assert len(paths | {path}) == 1 + len(others)


# --- damage


@pytest.mark.parametrize("byte", [0, 7, 8, 27])  # of the row: checksum, first and last logit
def test_a_flipped_bit_is_detected_and_repaired(tmp_path, caplog, byte):
    path, place = filled_file(tmp_path), row_place(17) + byte
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    store, network = FileStore(tmp_path, SMALL, CPU), Network()
    for _ in range(2):
        assert torch.equal(lookup(Memo(store, 4), EVERYTHING, network), Network.right(EVERYTHING))
    assert (network.rows, store.damaged) == (1, 1)
    (message,) = warnings(caplog)
    assert str(path) in message
    assert "do not match their checksums" in message


def test_a_misplaced_row_is_not_used(tmp_path):
    path = filled_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[row_place(3) : row_place(4)] = content[row_place(8) : row_place(9)]
    path.write_bytes(content)
    store = FileStore(tmp_path, SMALL, CPU)
    assert torch.equal(lookup(Memo(store, 4), EVERYTHING, Network()), Network.right(EVERYTHING))
    assert store.damaged == 1


def test_damage_warns_once(tmp_path, caplog):
    path = filled_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[row_place(0) :] = b"x" * (len(content) - row_place(0))
    path.write_bytes(content)
    store = FileStore(tmp_path, SMALL, CPU)
    for part in EVERYTHING.split(40):
        assert torch.equal(lookup(Memo(store, 4), part, Network()), Network.right(part))
    assert store.damaged == 120
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("damage", ["truncated", "header", "foreign", "empty"])
def test_a_corrupt_file_is_renamed_and_replaced(tmp_path, caplog, damage):
    path = filled_file(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[100] ^= 1
    elif damage == "foreign":
        content = FileStore(tmp_path, replace(SMALL, teacher_digest="u"), CPU).path.read_bytes()
    path.write_bytes(content[: {"truncated": 5000, "empty": 0}.get(damage)])
    network = Network()
    for _ in range(2):
        memo = Memo(FileStore(tmp_path, SMALL, CPU), 4)
        assert torch.equal(lookup(memo, EVERYTHING, network), Network.right(EVERYTHING))
    assert network.rows == 120
    (message,) = warnings(caplog)
    assert message.startswith(f"{path} has ")
    assert ("header that is damaged" if damage in ("header", "foreign") else "bytes") in message
    assert path.with_suffix(".damaged").exists()


# --- several processes


def fill(folder, barrier, noise):
    """Fills a memo in random order; logits differ slightly between writers."""
    barrier.wait()
    store = FileStore(Path(folder), SMALL, CPU)
    memo, network = Memo(store, 4), Network()
    random = np.random.default_rng(noise)
    for _ in range(200):
        rows = torch.from_numpy(random.permutation(120)[:40])
        found = lookup(memo, rows, lambda images: network(images) + noise)
        offsets = found - Network.right(rows)  # from one writer, never a mixture
        assert ((offsets == offsets[:, :1]) & ((offsets == 1) | (offsets == 2))).all()
        if random.random() < 0.5:  # more concurrent writes than in training
            store.write(rows, Network.right(rows) + noise)
    assert network.rows < 4000


def test_two_processes_fill_one_file(tmp_path, caplog):
    barrier = context().Barrier(2)
    arguments = [(str(tmp_path), barrier, noise) for noise in (1, 2)]
    processes = [context().Process(target=fill, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("*.memo"))) == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".damaged")]
    network = Network()
    found = lookup(Memo(FileStore(tmp_path, SMALL, CPU), 4), EVERYTHING, network)
    assert network.rows == 0
    assert ((found - Network.right(EVERYTHING)) - 1.5).abs().eq(0.5).all()


# --- fallbacks


def data_of(**changes):
    return SimpleNamespace(
        **{
            "num_classes": 10,
            "num_train": 10**10,
            "eval_sizes": {"test": 1},
            "num_views": 162,
            "digest": "d",
            **changes,
        }
    )


def tiny(outputs, *overrides):
    return compose_config([*TINY, f"paths.outputs={outputs}", *overrides])


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_no_room_is_a_warning(tmp_path, caplog, mode):
    (tmp_path / "cache").mkdir()
    cfg, compute = tiny(tmp_path, f"teacher.memo={mode}"), choose_compute("cpu", "fp32", True)
    assert open_memo(cfg, "t", data_of(), compute) is None
    (message,) = warnings(caplog)
    assert "Training continues without a memo" in message
    if mode == "disk":
        assert f"{10**10 * 162 * 48 + HEADER_BYTES:,} bytes needed, " in message
        assert " free; free some space" in message


def test_a_failed_allocation_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("os.posix_fallocate", fail)
    with pytest.raises(ResourceError, match="Disk quota exceeded; 7,456 bytes needed"):
        FileStore(tmp_path / "memo", SMALL, CPU)
    assert not [path for path in (tmp_path / "memo").iterdir() if path.suffix != ".lock"]


def test_leftovers_of_a_killed_process_are_overwritten(tmp_path):
    path = filled_file(tmp_path)
    path.replace(path.with_suffix(".tmp"))
    network = Network()
    lookup(Memo(FileStore(tmp_path, SMALL, CPU), 4), EVERYTHING, network)
    assert network.rows == 120
    assert not path.with_suffix(".tmp").exists()


def test_off_with_a_reason_where_views_are_not_numbered(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cfg, compute = tiny(tmp_path, "teacher.memo=disk"), choose_compute("cpu", "fp32", True)
    assert open_memo(cfg, "t", data_of(num_views=None), compute) is None
    (message,) = caplog.messages
    assert message.startswith("teacher.memo=disk is off: the augmentation of fake has no finite")


def test_both_protocols_number_the_same_samples(tmp_path):
    compute, paths = choose_compute("cpu", "fp32", True), set()
    for protocol in ("paper", "strict"):
        cfg = tiny(
            tmp_path,
            "teacher.memo=disk",
            f"run.protocol={protocol}",
            "dataset.val_fraction=0.25",
        )
        paths.add(open_memo(cfg, "t", open_data(cfg, compute), compute).store.path)
    assert len(paths) == 1


# --- runs


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def passed(monkeypatch):
    """Sizes of the batches that a teacher computed."""
    sizes, forward = [], Teacher.forward
    monkeypatch.setattr(
        Teacher, "forward", lambda self, images: sizes.append(len(images)) or forward(self, images)
    )
    return sizes


def train(outputs, name, *overrides):
    cfg = tiny(outputs, *overrides)
    return train_jobs([Job(cfg, Path(outputs) / name, run_key(cfg))])[0].record


def views_of(cfg):
    """The (sample, view) pairs that a run sees."""
    data = open_data(cfg, choose_compute("cpu", "fp32", True))
    batches = [batch for epoch in range(cfg.run.epochs) for batch in data.train_batches(epoch)]
    return {pair for b in batches for pair in zip(b.index.tolist(), b.view.tolist(), strict=True)}


def test_methods_and_seeds_share_a_memo_on_disk(tmp_path, one_thread, passed, caplog):
    caplog.set_level(logging.INFO)
    runs = [["method=kd", "seed=0"], ["method=dtkd", "seed=1"]]
    runs = [[*run, "teacher.memo=disk", "dataset.augmentation.pad=0"] for run in runs]
    records = [train(tmp_path, f"run{n}", *run) for n, run in enumerate(runs)]
    seen = [views_of(tiny(tmp_path, *run)) for run in runs]
    test_images = 20
    assert sum(passed) == len(seen[0] | seen[1]) + test_images  # cached too
    hits = [120 - len(seen[0]), 120 - len(seen[1] - seen[0])]
    assert hits[1] > hits[0] > 0
    for record, hit in zip(records, hits, strict=True):
        report = record.teacher_memo
        assert (report["mode"], report["asked"], report["remembered"]) == ("disk", 120, hit)
        assert report["megabytes"] == pytest.approx((HEADER_BYTES + 80 * 48) / 1e6, abs=1e-3)
    (path,) = (tmp_path / "cache" / "memo").glob("*.memo")
    share = f"teacher memo (disk): {100 * hits[0] / 120:.1f} % hits in 120 lookups, 0 MB in "
    assert share + str(path) in caplog.messages


def test_off_is_the_plain_network(tmp_path, one_thread, monkeypatch):
    off = train(tmp_path, "off", "teacher.memo=off")
    assert off.teacher_memo is None
    assert not (tmp_path / "cache" / "memo").exists()
    monkeypatch.setattr(Teacher, "query", lambda self, batch, _: NetworkOutput(self(batch.images)))
    plain = train(tmp_path, "plain")
    assert plain.weights_digest == off.weights_digest
    assert plain.metrics_digest == off.metrics_digest


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_an_empty_memo_changes_no_bit(tmp_path, one_thread, mode):
    records = [
        train(tmp_path, name, f"teacher.memo={name}", "run.epochs=1") for name in ("off", mode)
    ]
    assert records[0].weights_digest == records[1].weights_digest
    assert records[1].teacher_memo["remembered"] == 0


def test_strong_views_are_always_computed(tmp_path, one_thread, passed):
    record = train(
        tmp_path, "run", "method=mlkd", "teacher.memo=memory", "dataset.augmentation.pad=0"
    )
    computed = record.teacher_memo["asked"] - record.teacher_memo["remembered"]
    assert record.teacher_memo["asked"] == 120
    assert computed <= 80
    assert sum(passed) == computed + 120 + 20  # missing weak views, strong views, the test set


def test_the_record_of_a_run_without_teacher_has_no_memo(tmp_path, one_thread):
    cfgs = [tiny(tmp_path, "teacher.memo=memory", f"method={m}") for m in ("kd", "scratch")]
    jobs = [Job(cfg, tmp_path / cfg.method, run_key(cfg)) for cfg in cfgs]
    memos = [outcome.record.teacher_memo for outcome in train_jobs(jobs)]
    assert memos[0]["mode"] == "memory"
    assert memos[1] is None


# --- the key


@pytest.mark.parametrize("mode", ["off", "memory", "disk"])
def test_a_memo_does_not_change_the_run_key(tmp_path, mode):
    check_overrides([f"teacher.memo={mode}"])
    cfg = tiny(tmp_path, f"teacher.memo={mode}")
    assert cfg.teacher.memo == mode
    assert run_key(cfg) == run_key(tiny(tmp_path))


@pytest.mark.parametrize("value", ["false", "ram", "null"])
def test_other_values_are_rejected(value):
    with pytest.raises(ConfigError, match=r"teacher\.memo="):
        check_overrides([f"teacher.memo={value}"])
