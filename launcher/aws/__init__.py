"""The AWS account: sessions, the stack, checks, prices.

May import `plan`.
"""
