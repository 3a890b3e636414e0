"""Interpolation and extrapolation by name: a method is a metric, a solver and a space."""
