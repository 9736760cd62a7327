"""Errors with their exit codes, how numbers are written, the grammar of log lines.

Imports nothing of the job.
"""
