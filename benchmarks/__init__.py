"""Speed, side by side with what it is compared to, interleaved in one run."""
