"""Language models behind one function: messages and settings in, a text and token counts out.

May import core to model.
"""
