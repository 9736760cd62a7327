"""The batch job: reads pairs, writes a tuned model and a report that proves its effect."""

__version__ = "0.1.0"
