"""Training of the default model: fine-tuning, quantization, evaluation, model card."""
