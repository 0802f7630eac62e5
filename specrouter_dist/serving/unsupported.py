"""Fields that OpenAI or vLLM have and this service has not.

Clients send some of them with the value that changes nothing; that is taken.
"""

import json
from collections.abc import Mapping
from typing import Any

from specrouter_dist.serving.json_body import refuse
from specrouter_dist.validation import shown

WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "function_call": ("none",),
    "functions": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logits_processors": (),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "store": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Their values that say what is done anyway."""


def without_unsupported(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body without those that change nothing.

    Raises:
        RequestError: a feature that does not exist is asked for; names its field.
    """
    for name in values:
        if name in WITHOUT_EFFECT:
            _check(name, values[name])
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def _check(name: str, value: Any) -> None:
    accepted = WITHOUT_EFFECT[name]
    # By type too: JSON's true is no 1.
    if value is None or any(type(value) is type(one) and value == one for one in accepted):
        return
    if not accepted:
        refuse(name, f"not supported, got {shown(value)}")
    words = " or ".join(json.dumps(one) for one in accepted)
    refuse(name, f"not supported but for {words}, got {shown(value)}")
