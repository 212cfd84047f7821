"""Networks that judge images: features, text alignment, linear classifiers."""

# The metrics load two of these networks by default and import them for that. Whoever imports a network first must not meet a metric that
# waits for the same network, so the metrics come first.
import smoothlib.metrics  # noqa: F401
