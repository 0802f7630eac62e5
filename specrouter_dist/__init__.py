"""specrouter-dist: speculative decoding over chains of models on Ray. Faster text, the same text."""

__version__ = "0.1.0"
