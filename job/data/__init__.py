"""Turn files into a dataset: readers, columns, cleaning, near-duplicates, splits, corpus.

May import `core` to `distributed`. Does not need torch.
"""
