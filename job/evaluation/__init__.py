"""Scores of both models, and whether they differ: encoding, search, metrics, significance.

May import `core` to `model`.
"""
