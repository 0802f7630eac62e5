"""Which models of the Llama family the fast engine runs, by their config.json."""

from collections.abc import Mapping
from typing import Any

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Values of ``model_type`` that the fast engine runs; SmolLM and TinyLlama say ``llama``."""

_ROPE_TYPES = ("default", "llama3")
_ROPE_THETA = 10000.0
"""Of configs that do not say it; transformers has the same for the whole family."""
_LLAMA3_FIELDS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why the fast engine cannot run a model, naming the field, or None if it can.

    Args:
        config: the contents of ``config.json``.
    """
    kind = config.get("model_type")
    if kind not in FAMILY:
        return f"model_type: the fast engine runs {', '.join(FAMILY)}, got {kind!r}"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act: the fast engine runs 'silu', got {config['hidden_act']!r}"
    windowed = kind in ("llama", "mistral") or config.get("use_sliding_window", False)
    if windowed and config.get("sliding_window") is not None:
        return f"sliding_window: must be null, got {config['sliding_window']!r}"
    layer_types = set(config.get("layer_types") or ()) - {"full_attention"}
    if layer_types:
        return f"layer_types: must all be 'full_attention', got {sorted(layer_types)}"
    if config.get("quantization_config") is not None:
        return "quantization_config: quantized weights are not supported"
    return _rope_refusal(config)


def _rope_refusal(config: Mapping[str, Any]) -> str | None:
    rope = rope_of(config)
    kind = rope["rope_type"]
    if kind not in _ROPE_TYPES:
        return f"rope_parameters.rope_type: the fast engine runs {_ROPE_TYPES}, got {kind!r}"
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        return "rope_parameters.partial_rotary_factor: must be 1.0"
    if kind == "llama3":
        missing = [name for name in _LLAMA3_FIELDS if name not in rope]
        if missing:
            return f"rope_parameters: llama3 scaling needs {', '.join(missing)}"
    return None


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """As transformers 5 writes it, of a config of any age."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    return {"rope_theta": config.get("rope_theta") or _ROPE_THETA, **given, "rope_type": kind}
