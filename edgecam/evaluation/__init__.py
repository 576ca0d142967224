"""Reproduces the tables."""
