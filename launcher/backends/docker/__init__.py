"""The job in containers of the local engine."""
