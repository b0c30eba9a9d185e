"""How an answer is made: torch and transformers. Prints nothing.

Only `backends/endpoint/` uses HTTP, and logs in to a Dataloop app.
"""
