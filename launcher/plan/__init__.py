"""Plans a launch without side effects: options, names, settings; also stages inputs.

May import no other wing of the launcher.
"""
