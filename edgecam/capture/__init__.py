"""Cameras and recordings in, upright frames and the times of motion out."""
