"""Read and write data: the workspace, folders, S3, the Hub, tables and arrays on disk, publishing.

May import `core`, `spec` and `runtime`.
"""
