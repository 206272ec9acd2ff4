"""Standard Webhooks: messages and signatures, allowed addresses, the outbox, delivery."""
