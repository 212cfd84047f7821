"""Figures 3 and 7: interpolation between two real images."""
