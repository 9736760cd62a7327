"""Where jobs run: one package per backend, each implementing `registry.Backend`.

May import `plan` to `live`.
"""
