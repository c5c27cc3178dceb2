"""The parts of deploy/serve.py: an engine that batches, an application over it, and a server that ends well."""
