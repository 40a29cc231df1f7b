"""Load for a service, and the service that a tutorial would write, for benchmarks/serve.py."""
