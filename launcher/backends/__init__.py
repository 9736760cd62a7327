"""Where jobs run: one package a backend, each with the names of `registry.Backend`.

May import `plan` to `runs`.
"""
