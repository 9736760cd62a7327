"""Several processes and hosts: topology, torchrun, the process group, the heartbeat.

May import `core`, `spec`, `runtime` and `storage`.
"""
