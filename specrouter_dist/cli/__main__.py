"""``python -m specrouter_dist.cli``: the same as ``specrouter``."""

from specrouter_dist.cli.main import main

main()
