"""Computed tomography: geometries, projectors, classical reconstructions."""
