"""A notebook at every point of a grid of its parameters, from several seeds: `make sweep SWEEP=sweeps/k.yaml`."""
