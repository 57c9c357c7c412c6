"""Training: one loop for LoRA tuning, distillation and its SFT control."""
