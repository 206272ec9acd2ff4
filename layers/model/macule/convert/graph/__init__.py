"""The model as a frozen TensorFlow graph: inspected, cut, extended, exported."""
