import pytest
import torch


@pytest.fixture
def set_a3(set_a):
    """The golden inputs "set A3": set A and a third sample, for losses that relate samples."""
    third = torch.tensor([[-0.5, 0.3, 1.0, 2.2], [0.1, -0.4, 0.9, 0.6]], dtype=torch.float64)
    teacher, student, targets = set_a
    return (
        torch.cat([teacher, third[:1]]),
        torch.cat([student, third[1:]]),
        torch.cat([targets, torch.tensor([3])]),
    )
