"""The loop that a convolutional image classifier lives in."""

__version__ = "0.1.0"
