"""The 24 networks against the recorded answers of RepDistiller and mdistiller."""

import json

import pytest
import torch

from kdbench.model import cifar
from tests.helpers.compat_fill import SHARED, compat_file, fill, images, sha256

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (SHARED / "compat").is_dir(), reason="no ../shared/compat"),
]


@pytest.fixture(scope="module", params=cifar.__all__)
def case(request):
    """One network, filled, with its record; shared by the tests, which do not change it."""
    expected = json.loads(compat_file(request.param).read_text())
    model = fill(getattr(cifar, request.param)(num_classes=100)).eval()
    return model, expected


def tolerances(model, expected):
    """(float32, float64); looser where this machine's random numbers differ in the last bit."""
    state = model.state_dict()
    same = all(
        sha256(state[probe["key"]]) == probe["sha256_float32_le"]
        for probe in expected["fill_probes"]
    )
    return (5e-6, 1e-9) if same else (1e-4, 1e-4)


def error(actual, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def test_state_dict_has_the_names_order_shapes_and_dtypes(case):
    model, expected = case
    found = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in model.state_dict().items()
    ]
    assert found == expected["state_dict"]


def test_outputs_in_float32(case):
    model, expected = case
    tolerance, _ = tolerances(model, expected)
    with torch.no_grad():
        logits = model(images())
        logits_nhwc = model(images().to(memory_format=torch.channels_last))
    assert error(logits, expected["expected_logits_eval"]) <= tolerance
    assert error(logits_nhwc, expected["expected_logits_eval"]) <= tolerance


@pytest.mark.parametrize("preact", [False, True], ids=["feature", "preact"])
def test_features_and_logits_in_float64(case, preact):
    model, expected = case
    _, tolerance = tolerances(model, expected)
    with torch.no_grad():
        found = model.double().forward_features(images(dtype=torch.float64), preact)
    model.float()
    kind = "preact" if preact else "feature"
    shown = found.features
    maps = [*(shown.preacts if preact else shown.maps), shown.pooled]
    assert [list(m.shape) for m in maps] == [s for _, s in expected[f"expected_{kind}_shapes"]]
    means = expected[f"expected_{kind}_means_float64"]
    sizes = expected[f"expected_{kind}_absmeans_float64"]
    for feature_map, (_, mean), (_, size) in zip(maps, means, sizes, strict=True):
        assert abs(float(feature_map.mean()) - mean) <= tolerance * size
        assert abs(float(feature_map.abs().mean()) - size) <= tolerance * size
    assert error(found.logits, expected["expected_logits_eval_float64"]) <= tolerance
