"""The command-line tool: launches jobs, follows them and shows their reports."""
