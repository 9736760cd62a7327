"""The job as a subprocess of this machine."""
