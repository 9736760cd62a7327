"""Run the job in containers of the local Docker engine."""
