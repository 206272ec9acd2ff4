"""How the default model was made: frozen backbone, logistic head, quantized file, card."""
