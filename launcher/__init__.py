"""The laptop's side: submits jobs, follows them and shows their reports."""
