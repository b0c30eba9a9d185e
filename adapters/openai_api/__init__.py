"""OpenAI's calls and their responses."""
