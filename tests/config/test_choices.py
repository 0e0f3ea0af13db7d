from kdbench.config.choices import DESCRIBED, WIDTH, describe, list_groups, options_of, read_option
from kdbench.config.compose import CONF


def test_every_strategy_and_method_has_a_line_that_says_what_it_is():
    lines = list_groups(CONF).splitlines()
    assert max(map(len, lines)) <= WIDTH
    for group in DESCRIBED:
        for option in options_of(CONF / group):
            found = [line for line in lines if line.startswith(f"  {option} ")]
            assert found, option
            assert len(found[0].split()) > 2, found


def test_nested_options_are_listed():
    listed = list_groups(CONF)
    assert "imagenet/resnet18" in listed
    assert "tuned" not in listed


def test_the_first_sentence_of_the_comment_counts():
    assert describe(CONF / "temperature" / "logit_std.yaml") == (
        "Standardized logits (Sun et al, CVPR 2024)"
    )
    assert describe(CONF / "method" / "kd.yaml") == (
        "Classical distillation: Hinton, Vinyals, Dean, arXiv 1503.02531"
    )
    assert describe(CONF / "temperature" / "annealing.yaml").endswith("Jafari et al, EACL 2021)")


def test_an_option_is_read_as_it_stands():
    assert read_option("tracker", "csv") == {"_target_": "kdbench.tracker.base.NullTracker"}
    assert read_option("student", "resnet8")["num_classes"] == "${dataset.num_classes}"
