"""The local app (`make app`): walk, reconstruct, edit and drag by hand, the base model and Smooth Diffusion side by side.

A page in the browser, served on 127.0.0.1 by Tornado, which Jupyter brings along. Everything that is computed is `smoothlib`'s; this room
holds the page, what it may ask for, the line in which people wait, and the progress that they see.
"""
