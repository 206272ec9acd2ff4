"""A model as a frozen TensorFlow graph: inspection, subgraphs, activation maps, OOD score."""
