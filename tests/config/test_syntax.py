import shlex

import pytest

from kdbench.config.syntax import explain, is_readable, quote_recipes


def groups(option):
    return {"kd": ["method", "objective"]}.get(option, [])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--temperature=cosine", "no leading dashes; write temperature=cosine"),
        ("-temperature", "no leading dashes"),
        ("/a=b", "write a=b"),
        ("+/a=b", "write a=b"),
        ("~/x", "~KEY with its full path"),
        ("kd", "did you mean method=kd or objective=kd?"),
        ("nonsense", "is not KEY=VALUE"),
        ("=3", "the key is missing"),
        ("tempér=3", "tempér is not a valid key; use letters a-z"),
        ("a b=3", "a b is not a valid key"),
        ("paths.data=(x", "( and ) do not match"),
        ("paths.data=[x", "[ and ] do not match"),
    ],
)
def test_what_to_write_instead(override, words):
    assert not is_readable(override)
    assert words in explain(override, groups)


@pytest.mark.parametrize("value", ["1=2", "a#b", "it's", "a;b", "x&y", "a`b"])
def test_how_to_quote(value):
    """The command that is offered reads as the value that was meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = f"paths.data={value}"
    assert not is_readable(override)
    offered = explain(override, groups).partition("for the shell too: ")[2]
    (argument,) = shlex.split(offered)
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert parsed.value() == value


@pytest.mark.parametrize(
    ("written", "quoted"),
    [
        ("teacher.recipe=[method=kd,teacher=resnet56]",
         "teacher.recipe=['method=kd','teacher=resnet56']"),
        ("teacher.recipe=[method=scratch],[method=kd, seed=1]",
         "teacher.recipe=['method=scratch'],['method=kd','seed=1']"),
        ("teacher.recipe=[a=[1,2],teacher.recipe=[b='x,y']]",
         r"teacher.recipe=['a=[1,2]','teacher.recipe=[b=\'x,y\']']"),
        ("teacher.recipe=[]", "teacher.recipe=[]"),
        ("seed=1,2", "seed=1,2"),
    ],
)  # fmt: skip
def test_recipes_are_quoted_as_hydra_requires(written, quoted):
    assert quote_recipes([written]) == [quoted]
    assert quote_recipes([quoted]) == [quoted]
    assert is_readable(quoted)
