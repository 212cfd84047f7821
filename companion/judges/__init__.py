"""Networks that judge images: features, text alignment, linear classifiers."""
