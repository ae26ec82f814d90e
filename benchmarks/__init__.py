"""How fast the project is, next to its peers and to the machine's limits: `make bench`."""
