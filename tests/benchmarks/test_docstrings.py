"""The third data set: what of a docstring becomes a pair."""

from docstrings import pairs_of

REST = " ".join(f"word{number}" for number in range(30))
SOURCE = f'''
class Graph:
    """Base class for undirected graphs.

    {REST}
    """

    def order(self):
        """Return the number of nodes
        in the graph.

        {REST} more
        """

    def _hidden(self):
        """Return something that is private.

        {REST}
        """

    def short(self):
        """Return the number of edges.

        Few words.
        """

    def one(self):
        """Return.

        {REST}
        """

    def none(self):
        pass
'''


def test_public_docstrings_with_a_summary_and_a_text_are_pairs():
    assert list(pairs_of(SOURCE)) == [
        ("Base class for undirected graphs.", REST),
        ("Return the number of nodes in the graph.", f"{REST} more"),
    ]


def test_long_texts_are_cut():
    long = " ".join(["word"] * 400)
    source = f'def f():\n    """Return the number of words.\n\n    {long}\n    """\n'

    ((_, context),) = pairs_of(source)

    assert len(context.split()) == 300
