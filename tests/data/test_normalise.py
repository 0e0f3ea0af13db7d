import torch
from torchvision.transforms import v2

from kdbench.data.normalise import Normalise


def test_equals_torchvision():
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    images = torch.randint(0, 256, (4, 5, 7, 3), dtype=torch.uint8)
    ours = Normalise(mean, std, width=7, device=torch.device("cpu"))(images)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    torch.testing.assert_close(ours, theirs(images.permute(0, 3, 1, 2)), rtol=0, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)
