"""The commands and their options, one module per group."""
