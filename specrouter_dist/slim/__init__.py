"""Offline work: which layers of a target may be skipped, and whether that would pay."""
