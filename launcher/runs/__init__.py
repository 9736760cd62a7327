"""Runs: their lists, records and results, and the gate.

May import `plan`, `aws` and `containers`.
"""
