"""How an answer is made: torch and transformers, no Dataloop, no HTTP, no printing."""
