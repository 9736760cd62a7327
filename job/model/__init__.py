"""The encoder: loaded, placed on its device, saved.

May import `core` to `data`.
"""
