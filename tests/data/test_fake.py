import numpy as np


def test_same_seed_same_images(make_dataset):
    first, second = (make_dataset("fake").read() for _ in range(2))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.train.images.flags.c_contiguous
    other = make_dataset("fake", seed=1).read()
    assert (other.train.images != first.train.images).mean() > 0.9


def test_every_parameter_of_the_images_is_in_the_digest(make_dataset):
    changes = [{}, {"seed": 1}, {"signal": 0.4}, {"train_size": 5}, {"image_size": 16}]
    digests = {make_dataset("fake", **change).source(None).digest for change in changes}
    assert len(digests) == len(changes)
    assert make_dataset("fake", batch_size=3).source(None).digest in digests


def test_the_nearest_class_mean_is_right_most_of_the_time(make_dataset):
    train, test, _ = make_dataset("fake").read()
    flat = train.images.reshape(len(train.images), -1).astype(float)
    means = np.stack([flat[train.targets == label].mean(0) for label in range(10)])
    distances = ((test.images.reshape(len(test.images), 1, -1) - means) ** 2).sum(-1)
    assert (distances.argmin(1) == test.targets).mean() > 0.9
