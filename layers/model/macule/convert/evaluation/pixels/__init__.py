"""What the pixels of a photo say: colour spaces, the skin tone, answers to changed copies."""
