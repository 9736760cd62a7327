"""What a launch will do, before anything is done: options, names, settings, staged inputs.

Imports nothing else of the launcher.
"""
