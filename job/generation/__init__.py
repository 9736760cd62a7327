"""Documents in, pairs out: a language model writes questions about chunks, rules reject bad ones.

May import core to evaluation; training, report and the pipeline import it.
"""
