import torch

from kdbench.teacher.logit_cache import LogitCache

LOGITS = torch.randn(7, 3), torch.arange(7)


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return LOGITS


def test_logits_are_computed_once_and_cached_bit_for_bit(tmp_path):
    compute = Counting()
    for _ in range(3):
        found = LogitCache(tmp_path / "new", {"teacher": "a"}).get("test", compute)
        assert all(torch.equal(a, b) for a, b in zip(found, LOGITS, strict=True))
    assert compute.calls == 1


def test_another_teacher_split_or_machine_is_another_file(tmp_path):
    compute = Counting()
    for identity, split in [("a", "test"), ("b", "test"), ("a", "val")]:
        LogitCache(tmp_path, {"teacher": identity}).get(split, compute)
    assert compute.calls == 3


def test_a_damaged_file_is_detected_and_replaced(tmp_path, caplog):
    compute, cache = Counting(), LogitCache(tmp_path, {})
    cache.get("test", compute)
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:-1] + b"\1", path.read_bytes()[:50], b""):
        path.write_bytes(content)
        cache.get("test", compute)
        assert "is damaged" in caplog.text
        caplog.clear()
    assert compute.calls == 4
    cache.get("test", compute)
    assert compute.calls == 4
