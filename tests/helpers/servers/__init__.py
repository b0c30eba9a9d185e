"""Real HTTP servers on loopback that models are asked through: one of ours, and `transformers serve`."""
