import pytest
import torch

from kdbench.data.base import Batch
from kdbench.outputs import Outputs
from kdbench.plugin.mixing import Mixing
from kdbench.progress import Progress
from tests.helpers.harness import STATEFUL, result, run

VALUES = {
    "every": 2,
    "power": 0.03,
    "count_scale": 40,
    "low": [0.1, 0.2],
    "high": [0.8, 0.9],
    "weight_end": 0.7,
}


def at(epoch, fraction=0.5):
    return Progress(round(100 * fraction), 100, epoch, 10)


def batch():
    index = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.zeros(20).long(), index, torch.zeros(20).long())


def informed():
    """A plugin after one epoch in which uncertainty increased with the sample index."""
    plugin, given = Mixing(**VALUES), batch()
    sharpness = 20.0 - given.index
    logits = torch.stack([sharpness, torch.zeros(20)], dim=1)
    plugin.observe(Outputs.from_logits(None, logits, given.targets, given.index), at(0))
    return plugin, given


def test_uncertain_images_are_mixed_with_certain_ones():
    plugin, given = informed()
    mixed = plugin.prepare(given, at(2, fraction=0.5))
    place = {int(i): position for position, i in enumerate(given.index)}
    for uncertain, certain in [(16, 2), (17, 3)]:  # ranks 80-90 % and 10-20 % of 20
        expected = 0.85 * given.images[place[uncertain]] + 0.15 * given.images[place[certain]]
        torch.testing.assert_close(mixed.images[place[uncertain]], expected)
    changed = (mixed.images != given.images).flatten(1).any(1)
    assert sorted(given.index[changed].tolist()) == [16, 17]
    assert mixed.view is None  # a mixed image is not an enumerated view
    assert torch.equal(mixed.targets, given.targets)


def test_the_weight_falls_linearly():
    plugin, given = informed()
    assert torch.equal(plugin.prepare(given, at(2, fraction=0.0)).images, given.images)
    end = plugin.prepare(given, at(2, fraction=1.0)).images
    moved = (end - given.images).abs().sum()
    half = (plugin.prepare(given, at(2, fraction=0.5)).images - given.images).abs().sum()
    torch.testing.assert_close(half, moved / 2)


def test_before_the_first_ranking_the_batch_is_the_same_object():
    plugin, given = informed()
    assert plugin.prepare(given, at(0)) is given
    assert plugin.prepare(given, at(1)) is given
    assert Mixing(**VALUES).prepare(given, at(2)) is given


def test_the_state_survives_a_round_trip():
    plugin, given = informed()
    plugin.prepare(given, at(2))
    copy = Mixing(**VALUES)
    copy.load_state_dict(plugin.state_dict())
    expected = plugin.prepare(given, at(3)).images
    assert torch.equal(copy.prepare(given, at(3)).images, expected)


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    overrides = [*STATEFUL, "plugin=mixing", "plugin.every=1", "dataset.batch_size=20"]
    assert run(tmp_path / "whole", overrides) == 0
    assert run(tmp_path / "killed", overrides, KDBENCH_KILL_AT="step:7") == -9
    assert run(tmp_path / "killed", overrides) == 0
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


@pytest.mark.parametrize(
    ("key", "value"),
    [("every", 0), ("low", [0.2, 0.1]), ("high", [0.8]), ("weight_end", 2.0), ("count_scale", 0)],
)
def test_invalid_values_are_rejected(key, value):
    with pytest.raises(ValueError, match=f"{key} must"):
        Mixing(**{**VALUES, key: value})
