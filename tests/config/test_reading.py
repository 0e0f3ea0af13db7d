import pytest

from kdbench.config.reading import MAX_BYTES, check_yaml
from kdbench.errors import ConfigError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, n in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"run:\n  epochs: [1, 2\nseed: 3\n", ", line 3, column 5: "),
        (b"run:\n\tepochs: 3\n", ", line 2, column 1: "),
        (b"run:\n\tepochs: 3\n", "not with tabs"),
        (b"seed: 1\nrun: {}\nseed: 2\n", ", line 3, column 1: duplicate key seed"),
        (b"a: 1\nb: caf\xe9\n", ", line 2, column 7: byte 0xe9 is not UTF-8"),
        (b"a: &a\n  b: *a\n", ", line 1, column 4: this value contains itself"),
        (b"a: &a [1, *a]\n", "this value contains itself"),
        (b"a: *nobody\n", ", line 1, column 4: found undefined alias"),
        (LAUGHS.encode(), "more than 100000 values"),
        (b"[" * 100_000, "nested too deeply"),
        (b"#" * (MAX_BYTES + 1), "bytes; a config has at most"),
        (b"a: \x00\n", "special characters are not allowed"),
        (b"a: 1\nb: !!python/object/apply:os.mkdir [x]\n", ", line 2, column 4: the tag !!python"),
        (b"a: !mine {b: 1}\n", "the tag !mine is not allowed"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_yaml(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing\n",
        "a: &x {b: 1}\nc: *x\n",
        "a: !!str 1\n",
        "a: &a {b: 1}\nc: {<<: *a}\n",
        "- 1\n- ü\n",
    ],
)
def test_what_a_config_may_be_made_of(tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    check_yaml(tmp_path / "mine.yaml")
