"""OpenAI's API: its calls, and its response types."""
