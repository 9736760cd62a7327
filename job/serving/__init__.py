"""Served models against what was proven: clients of embedding servers, and comparison of vectors.

May import the evaluation, and what it may import.
"""
