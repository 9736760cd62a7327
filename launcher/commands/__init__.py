"""The commands of `embedtune`: one module each, with its name.

May import every other package of the launcher; each imports what it needs when it runs.
"""
