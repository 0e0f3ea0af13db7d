import pytest
import torch
from torch import nn

from kdbench.objective.kl import KL
from kdbench.temperature.constant import Constant
from kdbench.temperature.ctkd import CTKD
from kdbench.temperature.logit_std import LogitStandardization
from kdbench.temperature.part import Part, find_parts, require_registered, union_of_needs
from tests.helpers.outputs import of


def ctkd():
    return CTKD("global", 1.0, 20.0, 1.0, 10, 5e-4, 16, 4)


class Keeping(Part):
    def __init__(self, value):
        super().__init__()
        self.kept = value


HIDDEN = {
    "a parameter in a list": [nn.Parameter(torch.ones(2))],
    "a module in a tuple": (1, nn.Linear(2, 2)),
    "a module in a dict": {"deep": nn.Linear(2, 2)},
    "a parameter in a set": {nn.Parameter(torch.ones(2))},
    "one below another": {"a": [(nn.Linear(2, 2),)]},
    "a norm without parameters": [nn.BatchNorm1d(2, affine=False)],
    "a strategy": [Constant(2.0)],  # its needs and observe() would be ignored
    "a trainable tensor": torch.ones(2, requires_grad=True),
}


@pytest.mark.parametrize("value", HIDDEN.values(), ids=HIDDEN)
def test_unregistered_state_is_rejected(value):
    with pytest.raises(ValueError, match=r"Keeping\.kept.* is an unregistered"):
        require_registered(Keeping(value))
    with pytest.raises(ValueError, match="unregistered"):
        require_registered(nn.Sequential(nn.Linear(1, 1), Keeping(value)))


REGISTERED = {
    "numbers": [1.0, {"a": 2}],
    "a tensor without gradient": [torch.ones(2)],
    "a function": [nn.ReLU()],
    "a module": nn.Linear(2, 2),
    "a list of modules": nn.ModuleList([nn.Linear(2, 2)]),
    "parameters": nn.ParameterList([torch.ones(2)]),
}


@pytest.mark.parametrize("value", REGISTERED.values(), ids=REGISTERED)
def test_everything_else_is_allowed(value):
    require_registered(Keeping(value))


def test_a_second_reference_to_a_registered_module_is_allowed():
    part = Keeping(nn.Linear(2, 2))
    part.ways = [part.kept, part.kept.weight]
    require_registered(part)


def test_each_parameter_belongs_to_one_part():
    outer = LogitStandardization(ctkd(), "code", 1e-7, 1e-6)
    groups = [group for part in find_parts(outer) for group in part.param_groups()]
    assert groups == [{"params": [outer.base.theta], "weight_decay": 5e-4}]
    assert outer.own_parameters() == []


def test_weight_decay_is_the_optimizers_unless_stated():
    part = Keeping(nn.Linear(2, 2))
    (group,) = part.param_groups()
    assert group.keys() == {"params"}
    part.weight_decay = 0.3
    assert part.param_groups()[0]["weight_decay"] == 0.3
    part.kept.weight.requires_grad_(False)
    assert part.param_groups()[0]["params"] == [part.kept.bias]
    part.trains_itself = True
    assert part.param_groups() == []


def test_needs_are_combined_and_unknown_ones_rejected():
    first, second = KL(), KL()
    first.needs, second.needs = frozenset({"features"}), frozenset({"index", "features"})
    assert union_of_needs([first, second, KL()]) == {"features", "index"}
    first.needs = frozenset({"feature"})
    with pytest.raises(ValueError, match=r"KL\.needs has 'feature'; allowed are features"):
        union_of_needs([first, second])


class Product(Part):
    def forward(self, outputs):
        teacher, student = outputs.logits
        return teacher @ student.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_a_matrix_product(dtype):
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 8, 16, generator=generator).to(dtype)
    expected = teacher.float() @ student.float().T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Product()(of(teacher, student, None))
        assert (teacher @ student.T).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
