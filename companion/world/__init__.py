"""The rendered world that the embedded model knows, and that model's architecture."""
