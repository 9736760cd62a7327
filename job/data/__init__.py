"""From files to a dataset: readers, columns, cleaning, near-duplicates, splits, the corpus.

May import `core` to `distributed`; needs no torch.
"""
