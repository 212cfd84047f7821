"""Smooth Diffusion (arXiv:2312.04410), reproduced step by step: models, inversion, metrics and what the notebooks need around them."""

__version__ = "0.1.0"

import warnings

# tqdm's advice to install ipywidgets, with the path of its own file: it would be stored in every notebook
warnings.filterwarnings("ignore", message="IProgress not found")
