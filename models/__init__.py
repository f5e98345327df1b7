"""What the gateway and the cloud must agree on: records, features, bundles, evaluation."""
