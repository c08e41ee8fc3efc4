"""Entropy models: from integer latents to payloads and back."""
