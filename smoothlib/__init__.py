"""Smooth Diffusion (arXiv:2312.04410), reproduced step by step: models, inversion, metrics and what the notebooks need around them."""

__version__ = "0.1.0"
