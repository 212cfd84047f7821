"""The method of Smooth Diffusion (arXiv:2312.04410) on tensors and a diffusers pipeline: regularizer, inversion, interpolation, metrics."""

__version__ = "0.1.0"

import warnings

# tqdm's advice to install ipywidgets, with the path of its own file: it would be stored in every notebook
warnings.filterwarnings("ignore", message="IProgress not found")
