"""What every stage of a run uses: logs, signals, the watchdog, memory that runs out.

May import `core` and `spec`.
"""
