"""MRI for sciinv: readers, coil physics, exact Cartesian posteriors, writers."""
