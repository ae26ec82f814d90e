"""Data whose truth is known, and small models watched on them: what the walkthroughs show before a
real model is touched, and the planted products that models have to find. A module here may use the
core, never a chapter.
"""
