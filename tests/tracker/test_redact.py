import pytest

from kdbench.tracker.redact import REMOVED, redact, redact_line


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary-hf-0123456789")
    monkeypatch.setenv("SHORT_SECRET", "kd")


@pytest.mark.parametrize(
    "key", ["token", "hf_token", "apiKey", "api-key", "password", "AWS_SECRET_ACCESS_KEY"]
)
def test_values_of_secret_keys_are_removed_at_any_depth(key):
    found = redact({"a": [{"b": {key: "hush"}}], key: {"user": "me"}})
    assert found == {"a": [{"b": {key: REMOVED}}], key: REMOVED}


@pytest.mark.parametrize("key", ["tokens", "monkey", "keep_checkpoints", "milestones"])
def test_ordinary_keys_stay(key):
    assert redact({key: "x"}) == {key: "x"}


def test_a_flag_is_no_secret():
    assert redact({"class_token": True, "token": None}) == {"class_token": True, "token": None}


def test_values_of_secret_variables_are_removed_inside_texts():
    url = "https://user:canary-hf-0123456789@host/"
    assert redact({"url": url}) == {"url": f"https://user:{REMOVED}@host/"}


def test_a_short_secret_is_removed_only_as_the_whole_text():
    assert redact(["kd", "dkd"]) == [REMOVED, "dkd"]


def test_result_is_plain_and_the_config_stays_as_it_is(tmp_path):
    config = {"path": tmp_path, "pair": (1, 2.5), 3: None}
    assert redact(config) == {"path": str(tmp_path), "pair": [1, 2.5], "3": None}
    assert config["path"] is tmp_path


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("hub.api_key=abc tau=4", f"hub.api_key={REMOVED} tau=4"),
        ("+hub.password='a b' x", f"+hub.password='{REMOVED} b' x"),
        ('{"token": "abc", "keep": 1}', f'{{"token": "{REMOVED}", "keep": 1}}'),
        ("Bearer canary-hf-0123456789", f"Bearer {REMOVED}"),
        ("epoch 3/240  loss 1.234  test 61.2 %", "epoch 3/240  loss 1.234  test 61.2 %"),
    ],
)
def test_lines_lose_secrets_by_key_and_by_value(line, safe):
    assert redact_line(line) == safe
