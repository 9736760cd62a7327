"""The job spec: its schema, and how it is read from job files and assignments.

May import `core`.
"""
