"""Layouts of pairs that other tools write: one small reader each, all of which give the same rows.

May import the rest of `job.data` that reads files, never what cleans or splits.
"""
