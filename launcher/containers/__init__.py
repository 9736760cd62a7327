"""Docker: the engine and the job's image.

May import `plan` and `aws`.
"""
