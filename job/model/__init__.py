"""The encoder: load it, move it to its device, save it.

May import `core` to `data`.
"""
