"""Records of runs with their provenance, and what they say about the paper's claims."""
