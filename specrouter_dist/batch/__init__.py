"""Batch files: rows, their order, and where a run that was cut off goes on."""
