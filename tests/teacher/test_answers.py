import torch

from kdbench.teacher.answers import AnswerFiles

ANSWERS = torch.randn(7, 3), torch.arange(7)


class Asked:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return ANSWERS


def test_answers_are_asked_for_once_and_bit_for_bit_the_same(tmp_path):
    ask = Asked()
    for _ in range(3):
        found = AnswerFiles(tmp_path / "new", {"teacher": "a"}).get("test", ask)
        assert all(torch.equal(a, b) for a, b in zip(found, ANSWERS, strict=True))
    assert ask.times == 1


def test_another_teacher_split_or_machine_is_another_file(tmp_path):
    ask = Asked()
    for identity, split in [("a", "test"), ("b", "test"), ("a", "val")]:
        AnswerFiles(tmp_path, {"teacher": identity}).get(split, ask)
    assert ask.times == 3


def test_a_damaged_file_is_noticed_and_replaced(tmp_path, caplog):
    ask, files = Asked(), AnswerFiles(tmp_path, {})
    files.get("test", ask)
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:-1] + b"\1", path.read_bytes()[:50], b""):
        path.write_bytes(content)
        files.get("test", ask)
        assert "is damaged" in caplog.text
        caplog.clear()
    assert ask.times == 4
    files.get("test", ask)
    assert ask.times == 4
