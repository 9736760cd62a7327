"""The report: its typed document, its advice, and its views (HTML, Markdown, model card).

May import `core` to `training`.
"""
