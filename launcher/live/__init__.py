"""What a person sees while a job runs: its log lines, plain or drawn as one view.

May import `plan` to `runs`.
"""
