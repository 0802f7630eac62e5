"""Ids are those that transformers gives; texts that cannot be encoded are refused by field."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from specrouter_dist.errors import ConfigError, RequestError
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.text.tokenizer import Tokenizer

TARGET = POOLS_DIRECTORY / "tiny" / "target"
TEXTS = [
    "def add(a, b):\n    return a + b\n",
    " leading and trailing ",
    "Grüße 日本語 🙂\u200d \x00 \ufffd",
    "<|user|>hi<|assistant|><|endoftext|>",
    "x" * 5000,
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why is the sky blue? 🙂"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TARGET)


@pytest.mark.parametrize("text", TEXTS)
def test_a_plain_prompt_has_the_ids_of_auto_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    reference = AutoTokenizer.from_pretrained(TARGET)
    assert tokenizer.encode(text).tolist() == reference(text)["input_ids"]


def test_a_conversation_has_the_ids_of_the_chat_template(tokenizer: Tokenizer) -> None:
    reference = AutoTokenizer.from_pretrained(TARGET)
    expected = reference.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(CHAT).tolist() == expected


def variant(tmp_path: Path, name: str, content: str) -> Path:
    """The target's tokenizer files with one of them replaced."""
    for file in TARGET.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    (tmp_path / name).write_text(content)
    return tmp_path


def test_the_tokenizers_own_policy_adds_special_tokens(tmp_path: Path) -> None:
    content = json.loads((TARGET / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|pad|>", "type_id": 0}}
    content["post_processor"]["single"].insert(0, bos)
    content["post_processor"]["special_tokens"] = {
        "<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}
    }
    directory = variant(tmp_path, "tokenizer.json", json.dumps(content))
    reference = AutoTokenizer.from_pretrained(directory)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.encode("hi").tolist() == reference("hi")["input_ids"] == [1, 76, 77]
    # A conversation's template has written its special tokens itself.
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}]).tolist() == [3, 76, 77, 4]


def test_another_class_of_tokenizer_is_left_to_auto_tokenizer(tmp_path: Path) -> None:
    directory = variant(tmp_path, "tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}')
    reference = AutoTokenizer.from_pretrained(directory)
    ids = Tokenizer.load(directory).encode(TEXTS[2]).tolist()
    assert ids == reference(TEXTS[2])["input_ids"]


def test_encoding_and_templates_need_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from specrouter_dist.text.tokenizer import Tokenizer;"
        f"t = Tokenizer.load(Path({str(TARGET)!r})); t.decode(t.encode('hi'));"
        "t.encode_chat([{'role': 'user', 'content': 'hi'}]); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_an_empty_prompt_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"^prompt: empty"):
        tokenizer.encode("")


def test_no_messages_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"^messages: empty"):
        tokenizer.encode_chat([])


def test_a_lone_surrogate_is_refused_by_field(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"^prompt: .*lone surrogate at character 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(RequestError, match=r"^messages\[1\]\.content: .*lone surrogate"):
        tokenizer.encode_chat([CHAT[0], {"role": "user", "content": "\udfff"}])


def test_a_conversation_without_a_template_is_refused(tmp_path: Path) -> None:
    directory = variant(tmp_path, "config.json", (TARGET / "config.json").read_text())
    (directory / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.load(directory)
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match=r"^messages: the target has no chat template"):
        tokenizer.encode_chat(CHAT)


def test_messages_that_the_template_refuses_are_refused_with_its_words(tmp_path: Path) -> None:
    directory = variant(
        tmp_path, "chat_template.jinja", "{{ raise_exception('roles must alternate') }}"
    )
    with pytest.raises(RequestError, match=r"refuses them: roles must alternate"):
        Tokenizer.load(directory).encode_chat(CHAT)


def test_a_directory_without_a_tokenizer_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: missing"):
        Tokenizer.load(tmp_path)


def test_a_damaged_tokenizer_is_refused_by_path(tmp_path: Path) -> None:
    directory = variant(tmp_path, "tokenizer.json", '{"version": "1.0", "model": 3}')
    with pytest.raises(ConfigError, match=f"^{directory}: its tokenizer cannot be loaded"):
        Tokenizer.load(directory)
