"""Other base models than Stable Diffusion 1.x and 2.x, shown to the rest of the library as one of these: `views.base_view(pipe)`."""
