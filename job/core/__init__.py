"""Errors and exit codes, number formats, the grammar of log lines.

Imports no other part of the job.
"""
