"""Runs and what they leave: lists, records, live log lines, the gate.

May import `plan`, `aws` and `containers`.
"""
