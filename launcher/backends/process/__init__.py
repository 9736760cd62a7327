"""Run the job as a local subprocess."""
