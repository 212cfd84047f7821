"""Walks between noises and between real images."""
