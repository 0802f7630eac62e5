"""Key files and the variable, and what their errors say, and do not say."""

import pickle
from pathlib import Path

import pytest

from specrouter_dist.errors import AuthenticationError, ConfigError, InputError, NotFoundError
from specrouter_dist.serving.api_keys import ApiKeys, load_keys
from specrouter_dist.serving.settings import KeyLimits, ServiceSettings, read_settings

SECRET = "sk-5b1c4f0e93a84d52"
OTHER = "sk-c07d1e2c4b6f4a99"


def keys_of(tmp_path: Path, text: str, **limits: int) -> ApiKeys:
    file = tmp_path / "keys.txt"
    file.write_text(text, encoding="utf-8")
    settings = ServiceSettings(api_keys_file=file, key_limits=KeyLimits(**limits))
    return load_keys(settings, {})


def test_names_and_limits_follow_a_key(tmp_path: Path) -> None:
    text = f"# ours\n\n{SECRET}  name=alice max_running=4\n  {OTHER}\n"
    keys = keys_of(tmp_path, text, max_running=2, max_queued=9)
    assert keys.find(SECRET).name == "alice"
    assert keys.find(SECRET).limits == KeyLimits(max_running=4, max_queued=9)
    assert keys.find(OTHER).name == "key-2"
    assert keys.find(OTHER).limits == KeyLimits(max_running=2, max_queued=9)


def test_the_variable_holds_lines_too() -> None:
    keys = load_keys(ServiceSettings(), {"SPECROUTER_API_KEYS": f"{SECRET} name=a, {OTHER}\n"})
    assert [key.name for key in keys.keys] == ["a", "key-2"]


def test_without_a_file_and_a_variable_there_are_no_keys() -> None:
    keys = load_keys(ServiceSettings(), {})
    assert keys.keys == ()
    with pytest.raises(AuthenticationError):
        keys.find(SECRET)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{SECRET} max_runing=4", "line 1: max_runing: unknown field (did you mean 'max_running"),
        (f"#\n{SECRET} max_running=0", "line 2: max_running: input should be greater than or"),
        (f"{SECRET} max_running=many", "line 1: max_running: input should be a valid integer"),
        (f"{SECRET} max_running=1 max_running=2", "line 1: max_running: stands there twice"),
        (f"{SECRET} name=a\n{OTHER} name=a", "line 2: the name 'a' stands there twice"),
        (f"{SECRET}\n{SECRET}", "line 2: the key stands there twice"),
        (f"{SECRET} {OTHER}", "line 1: word 2: what follows a key is field=value"),
        ("secret", "line 1: a key is 16 or more printable ASCII characters"),
        ("gehe\u00efm-gehe\u00efm-gehe\u00efm", "line 1: a key is 16 or more printable ASCII"),
        ("# none", "holds no key"),
        ("", "holds no key"),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_shown(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        keys_of(tmp_path, text)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value) and OTHER not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_without_keys_is_no_open_service(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SPECROUTER_API_KEYS: holds no key"):
        load_keys(ServiceSettings(), {"SPECROUTER_API_KEYS": " "})
    with pytest.raises(NotFoundError, match="cannot be read"):
        load_keys(ServiceSettings(api_keys_file=tmp_path / "none"), {})


def test_what_leaves_the_process_holds_no_key(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, f"{SECRET} name=alice")
    carried = pickle.dumps(keys)
    assert SECRET.encode() not in carried and SECRET not in repr(keys.keys)
    assert pickle.loads(carried).find(SECRET).name == "alice"


def test_flags_replace_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("timeout_s: 5\nkey_limits: {max_running: 2}\n", encoding="utf-8")
    settings = read_settings(file, {"timeout_s": 7.0, "cors_origins": None})
    assert (settings.timeout_s, settings.key_limits.max_running) == (7.0, 2)
    assert read_settings(None, {}) == ServiceSettings()
    for text, words in [
        ("timeout: 5", "timeout: unknown field (did you mean 'timeout_s'?)"),
        ("key_limits: {max_running: -1}", "key_limits.max_running: input should be greater"),
        ("cors_origins: [example.org]", "cors_origins[0]: string should match pattern"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_settings(file, {})
        assert str(caught.value).startswith(f"{file}: ") and words in str(caught.value)
