"""Runs: their lists, records and results, live log lines, and the gate.

May import `plan`, `aws` and `containers`.
"""
