"""The backend that starts vLLM beside the adapter, and asks it as a server."""
