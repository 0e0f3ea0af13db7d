import numpy as np

from kdbench.data.base import Arrays
from kdbench.data.split import held_out, image_keys, split_arrays


def test_same_fraction_of_every_class(pictures):
    mask = held_out(image_keys(pictures.images), pictures.targets, 0.5)
    np.testing.assert_array_equal(np.bincount(pictures.targets[mask]), np.ones(10))


def test_the_same_images_are_held_out_in_any_order(pictures):
    _, first = split_arrays(pictures, 0.5)
    order = np.random.default_rng(1).permutation(20)
    _, second = split_arrays(Arrays(pictures.images[order], pictures.targets[order]), 0.5)
    assert set(image_keys(first.images)) == set(image_keys(second.images))


def test_nothing_is_lost(pictures):
    rest, held = split_arrays(pictures, 0.5)
    assert sorted(image_keys(rest.images) + image_keys(held.images)) == sorted(
        image_keys(pictures.images)
    )
    np.testing.assert_array_equal(rest.targets, pictures.targets[_where(pictures, rest)])


def _where(whole, part):
    keys = image_keys(whole.images)
    return [keys.index(key) for key in image_keys(part.images)]
