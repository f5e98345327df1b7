"""From trained models to ONNX graphs that answer alike, and the gate that proves it."""
