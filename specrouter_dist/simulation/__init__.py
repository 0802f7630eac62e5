"""The same stages and planner under a virtual clock: what a pool would do, before it is bought."""
