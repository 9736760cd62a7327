"""The job's spec: its schema, and the job files and assignments that it is read from.

May import `core`.
"""
