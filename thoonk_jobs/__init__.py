"""An event-driven job broker on Redis and Valkey; the public names, nothing else."""
