"""A corpus as an index: encoded into Parquet files, loaded into PostgreSQL or Qdrant.

May import the evaluation, and what it may import.
"""
