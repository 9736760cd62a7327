"""Several processes and hosts: topology, torchrun, the process group, the heartbeat.

May import what comes before it: `core`, `spec`, `runtime`, `storage`.
"""
