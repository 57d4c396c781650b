"""Draws the paper's Figures 3 and 4."""
