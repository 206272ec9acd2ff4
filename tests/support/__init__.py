"""What tests and benches share: real servers, misbehaving clients, images and models from code."""
