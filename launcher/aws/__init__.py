"""The AWS account: sessions, the CloudFormation stack, checks, prices.

May import `plan`.
"""
