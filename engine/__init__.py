"""How an answer is made: torch and transformers. Prints nothing.

Only `backends/endpoint/` and `backends/vllm/` use HTTP; the former logs in to a Dataloop app.
"""
