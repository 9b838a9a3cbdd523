"""Builds the distribution's images and Debian packages from package registries alone, on the control node."""
