"""One command that measures how smooth the latent space of your own pipeline is: `python -m companion.studies.measure --help`."""
