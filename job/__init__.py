"""The batch job: pairs in; tuned model and proof out."""

__version__ = "0.1.0"
