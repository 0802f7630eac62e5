"""The ``specrouter`` command. Heavy imports happen inside the commands, so that help is instant."""
