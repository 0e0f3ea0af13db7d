import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdbench.model.fuse import fold_norms, fuse_norms
from kdbench.model.fused_norm import WIDTH, NormReLU, is_fusible, load_kernel
from kdbench.model.load import load_model

KERNEL = load_kernel()
needs_compiler = pytest.mark.skipif(KERNEL is None, reason="g++ is not installed")

# Networks, and how many of their batch norms have a multiple of 16 channels.
FUSED = {"resnet8": 9, "resnet8x4": 10, "wrn_16_1": 13, "mobilenetv2": 46, "shufflenetv1": 21}


def nhwc(*shape, dtype=torch.float32, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = mean + torch.randn(*shape, generator=generator)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def seeded_norm(channels):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


def exact(norm, x, shortcut, grad_y, relu):
    """PyTorch's value, gradients and statistics in float64."""
    norm = copy.deepcopy(norm).double()
    x = x.double().detach().requires_grad_()
    shortcut = None if shortcut is None else shortcut.double().detach().requires_grad_()
    y = norm(x) if shortcut is None else norm(x) + shortcut
    y = F.relu(y) if relu else y
    y.backward(grad_y.double())
    found = [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    return found if shortcut is None else [*found, shortcut.grad]


def fused(norm, x, shortcut, grad_y, relu):
    norm = copy.deepcopy(norm)
    x = x.detach().requires_grad_()
    shortcut = None if shortcut is None else shortcut.detach().requires_grad_()
    y = NormReLU(norm, relu, KERNEL)(x, shortcut)
    y.backward(grad_y)
    found = [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    assert norm.num_batches_tracked == 1
    return found if shortcut is None else [*found, shortcut.grad]


def off_the_kink(x, norm, shortcut):
    """Values far enough from 0 that rounding does not change which ReLUs are active."""
    y = copy.deepcopy(norm).double()(x.double())
    y = y if shortcut is None else y + shortcut.double()
    return y.abs() > 0.05


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from([16, 32, 48, 256]),
    size=st.integers(2, 9),
    relu=st.booleans(),
    adds=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    mean=st.sampled_from([0.0, 3.0]),
)
def test_value_and_gradients_agree_with_float64(batch, channels, size, relu, adds, dtype, mean):
    norm, shape = seeded_norm(channels), (batch, channels, size, size)
    x, grad_y = nhwc(*shape, dtype=dtype, mean=mean), nhwc(*shape, dtype=dtype, seed=1)
    shortcut = nhwc(*shape, dtype=dtype, seed=2) if adds else None
    grad_y = grad_y * off_the_kink(x, norm, shortcut)
    grad_y = grad_y.to(dtype).contiguous(memory_format=torch.channels_last)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    expected = exact(norm, x, shortcut, grad_y, relu)
    for ours, theirs in zip(fused(norm, x, shortcut, grad_y, relu), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_a_large_mean_loses_no_precision():
    norm, x = seeded_norm(16), nhwc(8, 16, 16, 16, mean=1e4)
    expected = copy.deepcopy(norm).double()(x.double())
    # The mean itself has seven digits in float32, as PyTorch's has.
    assert (NormReLU(norm, False, KERNEL)(x) - expected).abs().max() < 2e-3


@needs_compiler
def test_the_bits_do_not_depend_on_the_number_of_threads():
    x, grad_y = nhwc(16, 32, 16, 16), nhwc(16, 32, 16, 16, seed=1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fused(seeded_norm(32), x, x, grad_y, relu=True))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


@needs_compiler
def test_nan_propagates():
    x = nhwc(2, 16, 4, 4)
    x[0, 3, 0, 0] = torch.nan
    for dtype in (torch.float32, torch.bfloat16):
        y = NormReLU(nn.BatchNorm2d(16), True, KERNEL)(x.to(dtype))
        assert y[:, 3].isnan().all()
        assert y[:, :3].isfinite().all()


@needs_compiler
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 16, 4, 4),  # not channels-last
        nhwc(2, 16, 4, 4).double(),
        nhwc(2, 24, 4, 4),
    ],
    ids=["strides", "float64", "channels"],
)
def test_unsupported_inputs_are_computed_by_pytorch(x):
    norm = nn.BatchNorm2d(x.shape[1]).to(x.dtype)
    expected = F.relu(copy.deepcopy(norm)(x) + x)
    assert torch.equal(NormReLU(norm, True, KERNEL)(x, x), expected)


def test_batch_norms_that_cannot_be_replaced_are_recognized():
    assert is_fusible(nn.BatchNorm2d(WIDTH))
    others = [
        nn.BatchNorm2d(WIDTH + 1),
        nn.BatchNorm2d(WIDTH, affine=False),
        nn.BatchNorm2d(WIDTH, track_running_stats=False),
        nn.BatchNorm2d(WIDTH, momentum=None),
        nn.BatchNorm2d(WIDTH).double(),
        nn.GroupNorm(2, WIDTH),
    ]
    assert not any(map(is_fusible, others))


@needs_compiler
@pytest.mark.parametrize("arch", FUSED)
def test_a_fused_network_shares_its_parameters_and_computes_the_same(arch):
    torch.manual_seed(0)
    plain = load_model(arch, num_classes=10).to(memory_format=torch.channels_last).train()
    student = copy.deepcopy(plain)
    network = fuse_norms(student, KERNEL)
    assert sum(isinstance(m, NormReLU) for m in network.modules()) == FUSED[arch]
    images = nhwc(16, 3, 32, 32)
    torch.testing.assert_close(network(images), plain(images), rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(student.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    student.load_state_dict(plain.state_dict())
    student.eval(), plain.eval()  # weights and mode of the student are those of the network
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain(images), rtol=1e-3, atol=1e-4)


@needs_compiler
def test_every_relu_of_a_resnet_is_part_of_a_norm():
    network = fuse_norms(load_model("resnet20", num_classes=10), KERNEL)
    norms = [module for module in network.modules() if isinstance(module, NormReLU)]
    assert len(norms) == 21
    assert sum(norm.relu for norm in norms) == 19
    assert "relu" not in network.code.replace("fused_norm", "")


def test_other_networks_and_machines_without_compiler_keep_their_batch_norms():
    foreign, own = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()), load_model("resnet8", 10)
    assert fuse_norms(foreign, KERNEL) is foreign
    assert fuse_norms(own, None) is own


@pytest.mark.parametrize("arch", ["resnet8", "resnet18", "wrn_16_1", "shufflenetv2", "vgg8"])
def test_a_folded_teacher_has_the_same_logits(arch):
    torch.manual_seed(0)
    teacher = load_model(arch, num_classes=10)
    images = torch.randn(8, 3, 32, 32)
    torch.optim.swa_utils.update_bn([images], teacher)  # else the norms would be identities
    teacher.eval().requires_grad_(False)
    folded = fold_norms(teacher)
    torch.testing.assert_close(folded(images), teacher(images), rtol=1e-3, atol=1e-4)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == {"wrn_16_1": 7}.get(arch, 0)  # WRNs also normalize sums


@needs_compiler
@pytest.mark.parametrize("arch", ["vgg8", "vgg13"])
def test_vggs_are_rewritten_for_images_of_any_size(arch, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(0)
    plain = load_model(arch, num_classes=10).to(memory_format=torch.channels_last).eval()
    folded, fused = fold_norms(plain), fuse_norms(plain, KERNEL)
    assert not caplog.records
    for size in (32, 64):  # at 64 they pool once more
        images = nhwc(2, 3, size, size)
        torch.testing.assert_close(folded(images), plain(images), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fused(images), plain(images), rtol=1e-3, atol=1e-4)
    assert fused.state_dict().keys() >= plain.state_dict().keys()
