"""The report: its typed document, what it advises, and every view of it.

May import `core` to `training`.
"""
