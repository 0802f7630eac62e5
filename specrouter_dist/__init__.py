"""Speculative decoding over chains of models on Ray: faster text, the same text."""

__version__ = "0.1.0"
