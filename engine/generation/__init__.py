"""Token ids in, sampled tokens and their log-probabilities out."""
