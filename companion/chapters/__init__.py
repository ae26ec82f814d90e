"""What the book's chapters compute: which models a chapter compares and how, the frames its figures
draw, the values of its results file. A module here is named after its chapter or after a part of
one; a measure that knows of no chapter belongs to the core.
"""
