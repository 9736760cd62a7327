"""What every stage of a run needs: logs, stop signals, the watchdog, retries when memory runs out.

May import `core` and `spec`.
"""
