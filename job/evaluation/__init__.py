"""Score both models and test whether they differ: encoding, search, metrics, significance.

May import `core` to `model`.
"""
