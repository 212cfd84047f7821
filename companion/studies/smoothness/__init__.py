"""Tables 1, 3 and 4: walks through the latent space, and the images of the same models."""
