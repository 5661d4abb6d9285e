"""What runs in vLLM's own environment: files of their own, which import nothing of this package."""
