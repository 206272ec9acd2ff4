"""What tests and benches share: real servers, clients that misbehave, images and models drawn in code."""
